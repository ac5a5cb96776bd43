// What a folder's tokenizer_config.json adds to its tokenizer.json.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "support/temp_folder.h"
#include "text/tokenizer.h"
#include "text_data.h"

namespace fathom {
namespace {

class TokenizerFolder : public testing::Test {
 protected:
  TokenizerFolder() {
    std::filesystem::copy_file(test::source_path("models/small/tokenizer.json"),
                               folder_.file("tokenizer.json"));
  }
  Tokenizer with(const std::string& config) {
    std::ofstream(folder_.file("tokenizer_config.json"), std::ios::binary) << config;
    return Tokenizer::from_folder(folder_.path());
  }

  test::TempFolder folder_;
};

TEST_F(TokenizerFolder, LlamaClassesPutTheBeginningOfSentenceInFront) {
  const std::string bos = "<｜begin▁of▁sentence｜>";
  const std::vector<int32_t> bare = Tokenizer::from_folder(folder_.path()).encode("Once");
  std::vector<int32_t> led = bare;
  const std::string yes =
      R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true, "bos_token": )";
  for (const std::string& token : {"\"" + bos + "\"", R"({"content": ")" + bos + "\"}"}) {
    const Tokenizer t = with(yes + token + "}");
    led = bare;
    led.insert(led.begin(), *t.added_id_of(bos));
    EXPECT_EQ(t.encode("Once"), led);
    EXPECT_EQ(t.encode("Once", false), bare);
    EXPECT_EQ(t.encode_plain("Once"), bare);
  }
  EXPECT_EQ(with("{}").encode("Once"), bare);
  EXPECT_EQ(
      with(R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false})").encode("Once"),
      bare);
  EXPECT_EQ(with(R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": true,
                    "bos_token": ")" +
                 bos + "\"}")
                .encode("Once"),
            bare);
  EXPECT_THROW(with(yes + "\"<none>\"}"), Error);
  EXPECT_THROW(with(yes + "5}"), Error);
  EXPECT_THROW(with("{"), Error);
}

}  // namespace
}  // namespace fathom
