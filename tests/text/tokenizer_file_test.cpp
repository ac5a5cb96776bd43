// tokenizer.json files that cannot be used are refused with the file's name and the key; the rarer
// features of the format do what Hugging Face's library does.
#include "text/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"
#include "text/unicode_shadow.h"
#include "text/utf8.h"
#include "text_data.h"

namespace fathom {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

// A tokenizer of the 256 bytes and a few merges.
Json tiny_file() {
  Json file = Json::parse(R"({"normalizer": null, "post_processor": null, "added_tokens": [],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {}, "merges": ["a b", ["c", "d"], "ab cd"]}})");
  Json& vocab = file["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) vocab[byte_spellings()[byte]] = byte;
  vocab["ab"] = 256;
  vocab["cd"] = 257;
  vocab["abcd"] = 258;
  vocab["bc"] = 259;
  return file;
}

Tokenizer make(const Json& file) { return Tokenizer::from_json(file.dump(), "tiny.json"); }

std::string error_of(const std::string& text) {
  try {
    Tokenizer::from_json(text, "tiny.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(TokenizerFile, TinyWorks) {
  const Tokenizer t = make(tiny_file());
  EXPECT_EQ(t.encode("abcdab"), (Ids{258, 256}));
  EXPECT_EQ(t.encode("bc"), (Ids{'b', 'c'}));
  EXPECT_EQ(t.vocab_size(), 260);
}

TEST(TokenizerFile, IgnoreMerges) {
  Json file = tiny_file();
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(make(file).encode("bc"), (Ids{259}));
  EXPECT_EQ(make(file).encode("abcdab"), (Ids{258, 256}));
}

TEST(TokenizerFile, ByteLevelRegex) {
  Json file = tiny_file();
  file["pre_tokenizer"] = Json::parse(R"({"type": "ByteLevel", "add_prefix_space": false})");
  // GPT-2's pattern keeps the space with the word behind it: no piece "ab" in "a b".
  EXPECT_EQ(make(file).encode("ab abcd"), (Ids{256, ' ', 258}));
}

TEST(TokenizerFile, StringPattern) {
  Json file = tiny_file();
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"] = Json::parse(R"({"String": "b"})");
  EXPECT_EQ(make(file).encode("abcd"), (Ids{'a', 'b', 257}));
}

TEST(TokenizerFile, AddedTokens) {
  Json file = tiny_file();
  file["added_tokens"] = Json::parse(R"([
    {"id": 300, "content": "<x>", "special": true},
    {"id": 301, "content": "<x>y", "special": true},
    {"id": 302, "content": "[L]", "lstrip": true, "special": true},
    {"id": 303, "content": "[R]", "rstrip": true, "special": false, "normalized": false},
    {"id": 304, "content": "<x", "special": false, "normalized": true}])");
  const Tokenizer t = make(file);
  EXPECT_EQ(t.encode("<x>y<x>"), (Ids{301, 300}));  // the longest
  EXPECT_EQ(t.encode("<x<x>"), (Ids{304, 300}));
  EXPECT_EQ(t.encode("a \u3000[L] a"), (Ids{'a', 302, ' ', 'a'}));
  EXPECT_EQ(t.encode("a [R] \n\u00a0a"), (Ids{'a', ' ', 303, 'a'}));
  EXPECT_EQ(t.decode(Ids{300, 304, 'a'}, true), "<xa");
  EXPECT_EQ(t.decode(Ids{300, 304, 'a'}), "<x><xa");
}

// An added token is text: its content is looked for in texts, and is what it decodes to.
TEST(TokenizerFile, AddedTokensOutsideTheByteAlphabet) {
  Json file = tiny_file();
  file["model"]["vocab"]["<né>"] = 305;  // listed in both places, out of reach of merges
  file["added_tokens"] = Json::parse(R"([
    {"id": 300, "content": "<café>", "special": false},
    {"id": 301, "content": "č", "special": false},
    {"id": 302, "content": "Ġx", "special": true},
    {"id": 303, "content": "naïve", "special": false, "normalized": true},
    {"id": 304, "content": "茶 ½", "special": false},
    {"id": 305, "content": "<né>", "special": false}])");
  const Tokenizer t = make(file);
  EXPECT_EQ(t.encode("<café>čĠx"), (Ids{300, 301, 302}));
  EXPECT_EQ(t.decode(Ids{300, 301, 302}), "<café>čĠx");
  EXPECT_EQ(t.decode(Ids{302, 301}, true), "č");
  EXPECT_EQ(t.encode("<né>"), (Ids{305}));
  EXPECT_EQ(t.token_bytes(300), "<café>");
  // A carriage return is spelled "č" in the vocabulary: another token.
  EXPECT_EQ(t.encode("\r"), (Ids{'\r'}));
  EXPECT_EQ(t.decode(Ids{'\r'}), "\r");
  for (const char* text :
       {"č", "a\rč\n", "<café> naïve", "茶 ½茶", "é<né>é", "Ġ Ġx", "<caf\u00E8>"})
    EXPECT_EQ(t.decode(t.encode(text)), text);
  // The stream gives the same text, whole characters at a time.
  StreamDecoder stream(t);
  std::string text;
  for (const int32_t id : t.encode("a<café>č naïve")) text += stream.push(id);
  EXPECT_EQ(text + stream.flush(), "a<café>č naïve");
}

// Listed as added under the id that the vocabulary has for that spelling: what texts are encoded to
// must decode to them, so the id stays the byte's (or the merge's).
TEST(TokenizerFile, AddedTokensThatSpellBytes) {
  Json file = tiny_file();
  file["model"]["vocab"]["ĊĊ"] = 310;
  file["model"]["merges"].push_back("Ċ Ċ");
  file["added_tokens"] = Json::parse(R"([{"id": 13, "content": "č", "special": true},
    {"id": 310, "content": "ĊĊ", "special": false}])");
  const Tokenizer t = make(file);
  for (const char* text : {"č", "\r", "\n\n", "ĊĊ", "a č\r\n\nĊĊ"})
    EXPECT_EQ(t.decode(t.encode(text)), text);
  EXPECT_EQ(t.encode("\n\n"), (Ids{310}));
  EXPECT_FALSE(t.is_special(13));
  EXPECT_EQ(t.decode(t.encode("\r"), true), "\r");
}

TEST(TokenizerFile, MarkersThatTheTextBringsAreNotPutInFrontAgain) {
  Json file = tiny_file();
  file["added_tokens"] = Json::parse(R"([{"id": 300, "content": "<s>", "special": true}])");
  file["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}}})");
  const Tokenizer t = make(file);
  EXPECT_EQ(t.encode("ab"), (Ids{300, 256}));
  EXPECT_EQ(t.encode("<s>ab"), (Ids{300, 256}));
  EXPECT_EQ(t.encode("<s><s>ab"), (Ids{300, 300, 256}));  // who writes two means two
  EXPECT_EQ(t.encode("<s>"), (Ids{300}));
  EXPECT_EQ(t.encode(""), (Ids{300}));
  EXPECT_EQ(t.encode("a<s>"), (Ids{300, 'a', 300}));
  EXPECT_EQ(t.encode("<s>ab", false), (Ids{300, 256}));
}

TEST(TokenizerFile, TemplateProcessing) {
  Json file = tiny_file();
  file["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}})");
  EXPECT_EQ(make(file).encode("ab"), (Ids{7, 256}));
  EXPECT_EQ(make(file).encode_plain("ab"), (Ids{256}));
  file["post_processor"]["special_tokens"]["<s>"]["ids"] = {9000};
  EXPECT_THAT(error_of(file.dump()), testing::HasSubstr("no token has id 9000"));
}

struct Broken {
  std::function<void(Json&)> change;
  const char* message;
};

TEST(TokenizerFile, WhatIsWrongIsSaidWithItsKey) {
  const Broken cases[] = {
      {[](Json& f) { f = 3; }, "expected an object"},
      {[](Json& f) { f.erase("model"); }, "model: expected an object, found nothing"},
      {[](Json& f) { f["model"].erase("vocab"); },
       "model.vocab: expected an object, found nothing"},
      {[](Json& f) { f["model"]["vocab"] = "x"; },
       "model.vocab: expected an object, found a string"},
      {[](Json& f) { f["model"]["vocab"] = Json::object(); }, "model.vocab: expected tokens"},
      {[](Json& f) { f["model"]["vocab"]["ab"] = "x"; }, "model.vocab.ab: expected an id"},
      {[](Json& f) { f["model"]["vocab"]["ab"] = -1; }, "model.vocab.ab: expected 0 to"},
      {[](Json& f) { f["model"]["vocab"]["ab"] = 1ull << 63; }, "model.vocab.ab: expected 0 to"},
      {[](Json& f) { f["model"]["vocab"]["ab"] = 2000000000; }, "model.vocab.ab: expected 0 to"},
      {[](Json& f) { f["model"]["vocab"]["ab"] = 5; }, "id 5 given to two tokens"},
      {[](Json& f) { f["model"]["vocab"].erase("Ġ"); }, "none for 0x20 ('Ġ')"},
      {[](Json& f) { f["model"].erase("merges"); },
       "model.merges: expected an array, found nothing"},
      {[](Json& f) { f["model"]["merges"][1] = "ab"; }, "model.merges[1]: expected two tokens"},
      {[](Json& f) { f["model"]["merges"][1] = "a b c"; }, "model.merges[1]: expected two tokens"},
      {[](Json& f) { f["model"]["merges"][1] = 3; }, "model.merges[1]: expected \"a b\""},
      {[](Json& f) {
         f["model"]["merges"][1] = {"a", 3};
       },
       "model.merges[1]"},
      {[](Json& f) { f["model"]["merges"][1] = "zz a"; },
       "model.merges[1] ('zz' + 'a'): no token 'zz'"},
      {[](Json& f) { f["model"]["merges"][1] = "a a"; }, "no token 'aa'"},
      {[](Json& f) { f["model"]["type"] = "WordPiece"; }, "model.type: expected 'BPE'"},
      {[](Json& f) { f["model"]["dropout"] = 0.1; }, "model.dropout"},
      {[](Json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, "model.end_of_word_suffix"},
      {[](Json& f) { f["model"]["ignore_merges"] = "yes"; },
       "model.ignore_merges: expected true or false"},
      {[](Json& f) {
         f["normalizer"] = {{"type", "NFC"}};
       },
       "normalizer: expected none, found 'NFC'"},
      {[](Json& f) { f["pre_tokenizer"] = nullptr; },
       "pre_tokenizer: expected an object, found nothing"},
      {[](Json& f) { f["pre_tokenizer"]["pretokenizers"].erase(1); },
       "pre_tokenizer: expected ByteLevel"},
      {[](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
       "pretokenizers[0].behavior: expected 'Isolated'"},
      {[](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; },
       "regex '(a' does not compile"},
      {[](Json& f) { f["pre_tokenizer"]["pretokenizers"][0]["type"] = "Digits"; },
       "found 'Digits'"},
      {[](Json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; },
       "add_prefix_space: expected false"},
      {[](Json& f) {
         f["pre_tokenizer"]["pretokenizers"] =
             Json::array_t(100, f["pre_tokenizer"]["pretokenizers"][0]);
       },
       "expected at most 64"},
      {[](Json& f) { f["decoder"]["type"] = "Metaspace"; }, "decoder.type: expected 'ByteLevel'"},
      {[](Json& f) {
         f["post_processor"] = {{"type", "RobertaProcessing"}};
       },
       "'RobertaProcessing'"},
      {[](Json& f) {
         f["added_tokens"] = {{{"id", 1}}};
       },
       "added_tokens[0].content"},
      {[](Json& f) {
         f["added_tokens"] = {{{"id", 400}, {"content", ""}}};
       },
       "empty string"},
      {[](Json& f) {
         f["added_tokens"] = {{{"id", 400}, {"content", "x1"}, {"single_word", true}}};
       },
       "added_tokens[0].single_word"},
      {[](Json& f) {
         f["added_tokens"] = {{{"id", 256}, {"content", "<x>"}}};
       },
       "belongs to another token"},
      {[](Json& f) {
         f["added_tokens"] = {{{"id", 400}, {"content", "ab"}}};
       },
       "'ab' has two ids"},
  };
  for (const Broken& c : cases) {
    Json file = tiny_file();
    c.change(file);
    EXPECT_THAT(error_of(file.dump()),
                testing::AllOf(testing::StartsWith("tiny.json: "), testing::HasSubstr(c.message)));
  }
}

TEST(TokenizerFile, TruncatedFilesAreRefused) {
  const std::string text = tiny_file().dump();
  for (size_t size = 0; size < text.size(); size += 37) {
    EXPECT_THAT(error_of(text.substr(0, size)), testing::HasSubstr("tiny.json: not valid JSON"));
  }
  EXPECT_THROW(Tokenizer::from_folder("/no/such/folder"), Error);
}

// A pattern that explodes ends in an error, not in a crash or an endless run.
TEST(TokenizerFile, ExplodingPatternIsAnError) {
  Json file = tiny_file();
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+a+)+$";
  const Tokenizer t = make(file);
  EXPECT_EQ(t.decode(t.encode("aab")), "aab");
  EXPECT_THROW(t.encode(std::string(64, 'a') + "b"), Error);
  EXPECT_EQ(t.decode(t.encode("aab")), "aab");  // and the tokenizer goes on working
}

TEST(UnicodeShadow, ReplacesOnlyWhatIsNew) {
  std::string shadow;
  EXPECT_FALSE(make_unicode_shadow("plain é 中文 🙂", shadow));
  ASSERT_TRUE(make_unicode_shadow("a\u0897b\U000105C0", shadow));
  EXPECT_EQ(shadow, "a\u0900b\U00010000");
  ASSERT_TRUE(make_unicode_shadow("\u180E", shadow));
  EXPECT_EQ(shadow, "\u2060");
}

TEST(ByteAlphabet, IsABijection) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    EXPECT_EQ(bytes_of_spelling(spelling_of_bytes(bytes)), bytes);
  }
  EXPECT_EQ(spelling_of_bytes(" a\n"), "ĠaĊ");
  EXPECT_EQ(bytes_of_spelling("a｜"), std::nullopt);
}

TEST(Utf8, ValidationAndReplacement) {
  const struct {
    std::string text;
    std::optional<size_t> bad;
    std::string replaced;
  } cases[] = {
      {"", std::nullopt, ""},
      {"aé中🙂\U0010FFFF", std::nullopt, "aé中🙂\U0010FFFF"},
      {"ascii text of some length\x80", 25, "ascii text of some length\uFFFD"},
      {"a\xC0\x80", 1, "a\uFFFD\uFFFD"},                    // overlong
      {"\xED\xA0\x80", 0, "\uFFFD\uFFFD\uFFFD"},            // surrogate
      {"\xF4\x90\x80\x80", 0, "\uFFFD\uFFFD\uFFFD\uFFFD"},  // past U+10FFFF
      {"\xE4\xB8"
       "a",
       0,
       "\uFFFD"
       "a"},  // one for a cut-off character
      {"\xF0\x9F\x99", 0, "\uFFFD"},
      {"\xE4\xB8\xE4\xB8\xAD", 0, "\uFFFD中"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(first_invalid_utf8(c.text), c.bad);
    EXPECT_EQ(replace_invalid_utf8(c.text), c.replaced);
  }
  EXPECT_EQ(incomplete_utf8_tail("a"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("aé"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("a\xC3"), 1u);
  EXPECT_EQ(incomplete_utf8_tail("a\xF0\x9F\x99"), 3u);
  EXPECT_EQ(incomplete_utf8_tail("a\x80\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("\xE4\xFF"), 0u);
}

}  // namespace
}  // namespace fathom
