#include "text/tokenizer_file.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/json_reader.h"

namespace fathom {
namespace {

using Json = nlohmann::json;
using TokenizerAt = JsonAt<Json>;

// Splits nest one recursion deep each.
constexpr size_t kMaxSplits = 64;

// GPT-2's own pattern, which a ByteLevel pre-tokenizer applies when `use_regex` is true.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void read_normalizer(const TokenizerAt& at) {
  if (at.null()) return;
  const std::string& type = at.at("type").string();
  // DeepSeek's file has a sequence of nothing.
  if (type == "Sequence" && at.at("normalizers").array_size() == 0) return;
  fail("{}: expected none, found '{}' (the family's text is not normalized)", at.path(), type);
}

SplitPattern read_pattern(const TokenizerAt& at) {
  const Json& object = at.object();
  if (object.contains("Regex")) return {at.at("Regex").string(), true};
  return {at.at("String").string(), false};
}

void read_pre_tokenizer(const TokenizerAt& at, TokenizerSpec& spec, bool& byte_level) {
  const std::string& type = at.at("type").string();
  if (byte_level) fail("{}: expected nothing after ByteLevel, found '{}'", at.path(), type);
  if (type == "Sequence") {
    const TokenizerAt list = at.at("pretokenizers");
    const size_t size = list.array_size();
    if (size > kMaxSplits) fail("{}: expected at most {}, found {}", list.path(), kMaxSplits, size);
    for (size_t i = 0; i < size; ++i) {
      // A sequence inside a sequence would be unbounded recursion for no known file.
      if (list.at(i).at("type").string() == "Sequence") {
        fail("{}.type: expected Split or ByteLevel, found 'Sequence'", list.at(i).path());
      }
      read_pre_tokenizer(list.at(i), spec, byte_level);
    }
  } else if (type == "Split") {
    const std::string& behavior = at.at("behavior").string();
    if (behavior != "Isolated") {
      fail("{}.behavior: expected 'Isolated', found '{}'", at.path(), behavior);
    }
    if (at.at("invert").boolean_or(false)) fail("{}.invert: expected false", at.path());
    spec.splits.push_back(read_pattern(at.at("pattern")));
  } else if (type == "ByteLevel") {
    if (at.at("add_prefix_space").boolean_or(true)) {
      fail("{}.add_prefix_space: expected false, found true", at.path());
    }
    if (at.at("use_regex").boolean_or(true)) {
      spec.splits.push_back({std::string(kByteLevelPattern), true});
    }
    byte_level = true;
  } else {
    fail("{}.type: expected Sequence, Split or ByteLevel, found '{}'", at.path(), type);
  }
}

// Ids of a TemplateProcessing's special tokens around a single text ("A").
void read_template(const TokenizerAt& at, TokenizerSpec& spec) {
  const TokenizerAt single = at.at("single");
  const TokenizerAt tokens = at.at("special_tokens");
  bool after_text = false;
  for (size_t i = 0; i < single.array_size(); ++i) {
    const TokenizerAt item = single.at(i);
    if (item.object().contains("Sequence")) {
      if (after_text) fail("{}: expected one Sequence, found two", single.path());
      after_text = true;
      continue;
    }
    const TokenizerAt ids = tokens.at(item.at("SpecialToken").at("id").string()).at("ids");
    for (size_t k = 0; k < ids.array_size(); ++k) {
      (after_text ? spec.suffix_ids : spec.prefix_ids).push_back(ids.at(k).integer(0, kMaxTokenId));
    }
  }
  if (!after_text) fail("{}: expected a Sequence, found none", single.path());
}

void read_post_processor(const TokenizerAt& at, TokenizerSpec& spec) {
  if (at.null()) return;
  const std::string& type = at.at("type").string();
  if (type == "ByteLevel") return;  // only moves offsets about; ids stay
  if (type == "TemplateProcessing") return read_template(at, spec);
  if (type == "Sequence") {
    const TokenizerAt list = at.at("processors");
    for (size_t i = 0; i < list.array_size(); ++i) {
      const std::string& inner = list.at(i).at("type").string();
      if (inner == "ByteLevel") continue;
      if (inner != "TemplateProcessing") {
        fail("{}.type: expected ByteLevel or TemplateProcessing, found '{}'", list.at(i).path(),
             inner);
      }
      read_template(list.at(i), spec);
    }
    return;
  }
  fail("{}.type: expected ByteLevel or TemplateProcessing, found '{}'", at.path(), type);
}

void read_added_tokens(const TokenizerAt& at, TokenizerSpec& spec) {
  if (at.null()) return;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const TokenizerAt item = at.at(i);
    AddedToken token;
    token.id = item.at("id").integer(0, kMaxTokenId);
    token.content = item.at("content").string();
    if (token.content.empty())
      fail("{}.content: expected text, found an empty string", item.path());
    token.special = item.at("special").boolean_or(false);
    token.normalized = item.at("normalized").boolean_or(!token.special);
    token.lstrip = item.at("lstrip").boolean_or(false);
    token.rstrip = item.at("rstrip").boolean_or(false);
    // Needs Unicode's word property on both sides; no file of the family asks for it.
    if (item.at("single_word").boolean_or(false)) {
      fail("{}.single_word: expected false ('{}'), found true", item.path(), token.content);
    }
    spec.added_tokens.push_back(std::move(token));
  }
}

void read_merges(const TokenizerAt& at, TokenizerSpec& spec) {
  const size_t size = at.array_size();
  spec.merges.reserve(size);
  for (size_t i = 0; i < size; ++i) {
    // There are 128,000 merges, so a path is built only for an error.
    const Json& merge = at.value()[i];
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos) {
        fail("{}: expected two tokens with a space between them, found '{}'", at.at(i).path(),
             text);
      }
      spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else {
      const bool pair =
          merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      if (!pair) at.at(i).expect(false, "\"a b\" or [\"a\", \"b\"]");
      spec.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
}

void read_model(const TokenizerAt& at, TokenizerSpec& spec) {
  const std::string& type = at.at("type").null() ? "BPE" : at.at("type").string();
  if (type != "BPE") fail("{}.type: expected 'BPE', found '{}'", at.path(), type);
  if (!at.at("dropout").null() && at.at("dropout").value() != 0.0) {
    fail("{}.dropout: expected none, found {}", at.path(), at.at("dropout").value().dump());
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const TokenizerAt affix = at.at(key);
    if (!affix.null() && !affix.string().empty()) {
      fail("{}: expected none, found '{}'", affix.path(), affix.string());
    }
  }
  spec.ignore_merges = at.at("ignore_merges").boolean_or(false);

  const TokenizerAt vocab = at.at("vocab");
  spec.vocab.reserve(vocab.object().size());
  for (const auto& [token, id] : vocab.object().items()) {
    if (!id.is_number_integer()) vocab.at(token).expect(false, "an id");
    const auto number = id.get<int64_t>();
    if (number < 0 || number > kMaxTokenId) vocab.at(token).integer(0, kMaxTokenId);
    spec.vocab.emplace_back(token, static_cast<int32_t>(number));
  }
  if (spec.vocab.empty()) fail("{}: expected tokens, found none", vocab.path());
  read_merges(at.at("merges"), spec);
}

}  // namespace

TokenizerSpec parse_tokenizer_spec(std::string_view json_text, std::string_view where) {
  const Json document = parse_json<Json>(json_text, where);
  const TokenizerAt root(document, fmt::format("{}: ", where));
  TokenizerSpec spec;
  read_normalizer(root.at("normalizer"));
  bool byte_level = false;
  read_pre_tokenizer(root.at("pre_tokenizer"), spec, byte_level);
  if (!byte_level) fail("{}: pre_tokenizer: expected ByteLevel at its end, found none", where);
  const std::string& decoder = root.at("decoder").at("type").string();
  if (decoder != "ByteLevel") {
    fail("{}: decoder.type: expected 'ByteLevel', found '{}'", where, decoder);
  }
  read_post_processor(root.at("post_processor"), spec);
  read_added_tokens(root.at("added_tokens"), spec);
  read_model(root.at("model"), spec);
  return spec;
}

}  // namespace fathom
