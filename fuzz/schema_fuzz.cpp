// Any schema, strict or not, as that of the answer, of a function, and of both at once: it is
// refused or compiles, and what is drawn from the masks afterwards is accepted, can go on, and is
// JSON or calls that can be read once it is complete.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "text/byte_alphabet.h"
#include "text/completion_parser.h"
#include "text/grammar/constraint.h"

namespace {

using namespace fathom;

constexpr int32_t kStop = 256;

// The 256 bytes, an end token, and a few longer tokens across what JSON is made of.
Tokenizer small_vocabulary() {
  nlohmann::json file = nlohmann::json::parse(R"({"normalizer": null, "post_processor": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 256, "content": "<end>", "normalized": false, "special": true}],
    "model": {"type": "BPE", "vocab": {}, "merges": []}})");
  nlohmann::json& vocab = file["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) vocab[byte_spellings()[byte]] = byte;
  int id = kStop;
  for (const char* text : {"\":", "\",\"", "{\"", "\"}", "]}", "[[", "[]", "{}", "null", "true",
                           "12", "00", ".5", "\\u", "\\\"", "ab", "</"}) {
    vocab[text] = ++id;
  }
  return Tokenizer::from_json(file.dump(), "fuzz");
}

// Draws an answer of up to 200 tokens from the masks; nothing if it has not ended by then.
std::optional<std::string> draw(const ConstraintFactory& factory, const Tokenizer& tokenizer,
                                const std::shared_ptr<const CompiledForm>& form, uint64_t seed) {
  const auto matcher = factory.matcher(form);
  std::vector<uint64_t> mask;
  std::string text;
  for (int i = 0; i < 200; ++i) {
    matcher->allowed(mask);
    std::vector<int32_t> tokens;
    for (size_t t = 0; t < mask.size() * 64; ++t)
      if (mask[t / 64] >> (t % 64) & 1) tokens.push_back(static_cast<int32_t>(t));
    if (tokens.empty() || matcher->stuck()) std::abort();
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const int32_t token = tokens[(seed >> 33) % tokens.size()];
    if (!matcher->accept(token)) std::abort();
    if (token == kStop) return text;
    text += tokenizer.token_bytes(token);
  }
  return std::nullopt;
}

// What was drawn is calls whose arguments are objects, or JSON; never both or neither.
void check_answer(const std::string& text, Encoding encoding, bool thinking, bool may_call) {
  CompletionParser parser(encoding, thinking);
  parser.feed(text);
  parser.finish();
  const Message& m = parser.message();
  if (parser.unreadable_calls() > 0) std::abort();
  for (const ToolCall& call : m.tool_calls)
    if (!may_call || !OrderedJson::parse(call.arguments, nullptr, false).is_object()) std::abort();
  if (m.tool_calls.empty() && !OrderedJson::accept(m.content)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = small_vocabulary();
  if (size < 2) return 0;
  // The first byte: the encoding, reasoning, and whether what cannot be enforced is refused.
  const Encoding encoding = data[0] & 1 ? Encoding::v31 : Encoding::v32;
  AnswerForm form;
  form.thinking = data[0] & 2;
  form.strict = form.strict_tools = data[0] & 4;
  form.schema = OrderedJson::parse(
      std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1), nullptr, false);
  if (form.schema.is_discarded()) return 0;
  ConstraintFactory factory(tokenizer, encoding, {kStop});
  const OrderedJson function = {{"name", "f"}, {"parameters", form.schema}};
  // The answer alone, what must be called, and either of the two.
  struct Use {
    AnswerForm::Kind kind;
    bool tools;
  };
  for (const auto& [kind, tools] :
       {Use{AnswerForm::Kind::json_schema, false}, Use{AnswerForm::Kind::tool_calls, true},
        Use{AnswerForm::Kind::json_schema, true}}) {
    form.kind = kind;
    form.tools.clear();
    if (tools) form.tools.push_back(function);
    const auto ready = factory.compile(form);
    if (!ready.ok()) {
      if (ready.failure().message.empty()) std::abort();
      continue;
    }
    const auto text = draw(factory, tokenizer, ready.value(), data[0]);
    if (text) check_answer(*text, encoding, form.thinking, tools);
  }
  return 0;
}
