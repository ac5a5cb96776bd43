// Any schema: it is refused or compiles, and what is drawn from the masks afterwards is accepted,
// can go on, and is JSON once it is complete.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/byte_alphabet.h"
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

void walk(const ConstraintFactory& factory, const Tokenizer& tokenizer,
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
    if (token == kStop) {
      if (!OrderedJson::accept(text)) std::abort();
      return;
    }
    text += tokenizer.token_bytes(token);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = small_vocabulary();
  if (size < 2) return 0;
  AnswerForm form;
  form.schema = OrderedJson::parse(
      std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1), nullptr, false);
  if (form.schema.is_discarded()) return 0;
  const Encoding encoding = data[0] & 1 ? Encoding::v31 : Encoding::v32;
  ConstraintFactory factory(tokenizer, encoding, {kStop});
  form.kind = AnswerForm::Kind::json_schema;
  if (const auto ready = factory.compile(form); ready.ok())
    walk(factory, tokenizer, ready.value(), data[0]);
  // The same as the parameters of a function; its calls are not JSON, so they are only compiled.
  form.kind = AnswerForm::Kind::tool_calls;
  form.tools = {{{"name", "f"}, {"parameters", form.schema}}};
  form.thinking = data[0] & 2;
  const auto ready = factory.compile(form);
  if (!ready.ok() && ready.failure().message.empty()) std::abort();
  return 0;
}
