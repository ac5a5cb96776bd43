#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "numerics/bf16.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::read_file;
using test::TempFolder;
using test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string with_header(const std::string& header, const std::string& data = {},
                        uint64_t length = 0) {
  if (length == 0) length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

// The message of the Error that opening these bytes ends in; empty when they are accepted.
std::string refusal(const std::string& bytes) {
  TempFolder dir;
  std::string path = dir.file("f.safetensors");
  write_file(path, bytes);
  try {
    SafetensorsFile::open(path);
    return {};
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(path)) << "every message names the file";
    return e.what();
  }
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(Safetensors, ReadsWhatWasWritten) {
  TempFolder dir;
  std::string path = dir.file("a.safetensors");
  float f[3] = {1.5f, -2, 3};
  uint8_t bytes[64] = {7};
  int64_t none = 0;
  write_safetensors(path,
                    {{"small", DType::f32, {3}, f},
                     {"odd \"name\"\n", DType::u8, {5}, bytes},
                     {"big", DType::fp8_e4m3, {8, 8}, bytes},
                     {"empty", DType::i64, {0, 4}, &none},
                     {"scalar", DType::f32, {}, f}},
                    {{"made", "by a test"}});
  SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.metadata().at("made"), "by a test");
  EXPECT_EQ(to_floats(file.at("small")), (std::vector<float>{1.5f, -2, 3}));
  EXPECT_EQ(file.at("big").shape, (std::vector<int64_t>{8, 8}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.at("big").data) % 64, 0u);
  EXPECT_TRUE(file.at("small").aligned());
  EXPECT_EQ(file.at("empty").bytes, 0u);
  EXPECT_EQ(file.at("scalar").elements(), 1);
  EXPECT_EQ(file.find("nothing"), nullptr);
  EXPECT_THROW(file.at("nothing"), Error);
  EXPECT_NE(file.find("odd \"name\"\n"), nullptr);
  EXPECT_THROW(to_floats(file.at("empty")), Error) << "integers are no floats";
}

TEST(Safetensors, ReadsOtherProgramsFiles) {
  std::string data = std::string(FATHOM_SOURCE_DIR) + "/tests/data/";
  SafetensorsFile file = SafetensorsFile::open(data + "tiny/model-00001-of-000002.safetensors");
  EXPECT_EQ(file.at("model.embed_tokens.weight").shape, (std::vector<int64_t>{500, 256}));
  EXPECT_EQ(SafetensorsFile::open(data + "golden/tiny.safetensors").at("tokens").elements(), 300);
}

TEST(Safetensors, UnalignedFloatsAreRead) {
  // A header of odd length, and one byte in front of the float.
  std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  if (header.size() % 2 == 0) header += ' ';
  float values[2] = {0.1f, -7};
  std::string data(9, '\0');
  std::memcpy(data.data() + 1, values, 8);
  TempFolder dir;
  std::string path = dir.file("u.safetensors");
  write_file(path, with_header(header, data));
  SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(to_floats(file.at("f")), (std::vector<float>{0.1f, -7}));
  EXPECT_EQ(file.at("f").aligned(), (8 + header.size() + 1) % 4 == 0);
}

TEST(Safetensors, HalfAndBf16AndFp8BecomeFloats) {
  TempFolder dir;
  // 1, -2, the greatest, the least subnormal, infinity
  uint16_t half[5] = {0x3C00, 0xC000, 0x7BFF, 0x0001, 0x7C00};
  uint16_t bf[2] = {to_bf16(3.0f).bits, to_bf16(-0.5f).bits};
  uint8_t fp8[2] = {0x38, 0xFE};
  std::string path = dir.file("h.safetensors");
  write_safetensors(path, {{"h", DType::f16, {5}, half},
                           {"b", DType::bf16, {2}, bf},
                           {"e", DType::fp8_e4m3, {2}, fp8}});
  SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(to_floats(file.at("h")),
            (std::vector<float>{1, -2, 65504, 0x1p-24f, std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(to_floats(file.at("b")), (std::vector<float>{3, -0.5f}));
  EXPECT_EQ(to_floats(file.at("e")), (std::vector<float>{1, -448}));
}

TEST(Safetensors, EveryTruncationIsRefused) {
  TempFolder dir;
  std::string path = dir.file("a.safetensors");
  float f[20] = {};
  write_safetensors(path, {{"x", DType::f32, {4, 4}, f}, {"y", DType::f32, {3}, f}});
  std::string whole = read_file(path);
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_NE(refusal(whole.substr(0, n)), "") << "first " << n << " bytes of " << whole.size();
  EXPECT_THAT(refusal(whole.substr(0, whole.size() - 1)), HasSubstr("tensor y"));
  EXPECT_THAT(refusal(whole + "x"), HasSubstr("end at byte"));
  EXPECT_EQ(refusal(whole), "");
}

TEST(Safetensors, EveryFlippedHeaderByteIsReadOrRefused) {
  TempFolder dir;
  std::string path = dir.file("a.safetensors");
  float f[20] = {};
  write_safetensors(path, {{"x", DType::f32, {4, 4}, f}, {"y", DType::f32, {3}, f}},
                    {{"key", "value"}});
  std::string whole = read_file(path);
  int refused = 0;
  for (size_t i = 0; i < whole.size() - 76; ++i)
    for (char c : {'\0', '"', '}', '9', '\xFF'}) {
      std::string bad = whole;
      bad[i] = c;
      try {
        parse_safetensors(reinterpret_cast<const std::byte*>(bad.data()), bad.size(), "bad");
      } catch (const Error&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 500);
}

TEST(Safetensors, HeaderLength) {
  EXPECT_THAT(refusal(""), HasSubstr("0 bytes"));
  EXPECT_THAT(refusal(std::string(8, '\0')), HasSubstr("header length is 0"));
  EXPECT_THAT(refusal(with_header("{}", "", 1)), HasSubstr("header length is 1"));
  EXPECT_THAT(refusal(with_header("{}", "", 3)), HasSubstr("header length is 3"));
  EXPECT_THAT(refusal(with_header("{}", "", UINT64_MAX)), HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal(with_header("{}", "", UINT64_MAX - 7)), HasSubstr("header length"));
  EXPECT_EQ(refusal(with_header("{}")), "");
}

TEST(Safetensors, HostileJson) {
  EXPECT_THAT(refusal(with_header("{]")), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(with_header("[]")), HasSubstr("expected an object"));
  EXPECT_THAT(refusal(with_header("42")), HasSubstr("expected an object"));
  EXPECT_THAT(refusal(with_header(R"({"a":1})")), HasSubstr("found 1 at key a"));
  EXPECT_THAT(refusal(with_header(R"({"a":null})")), HasSubstr("found null"));
  EXPECT_THAT(refusal(with_header(std::string(200000, '['))), HasSubstr("an array"));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += R"({"a":)";
  EXPECT_THAT(refusal(with_header(deep)), HasSubstr("unknown key a"));
  EXPECT_THAT(refusal(with_header("{} {}")), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(with_header("{\"\xFF\":{}}")), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(with_header(R"({"__metadata__":{"a":1}})")), HasSubstr("expected strings"));
  EXPECT_THAT(refusal(with_header(R"({"__metadata__":{"a":"1","a":"2"}})")), HasSubstr("twice"));
  std::string t = R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_THAT(refusal(with_header("{" + t + "," + t + "}")), HasSubstr("key t stands twice"));
  EXPECT_THAT(
      refusal(with_header(R"({"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})")),
      HasSubstr("key dtype stands twice"));
}

TEST(Safetensors, HostileEntries) {
  std::string four(4, '\0');
  auto entry = [&](const char* dtype, const char* shape, const char* offsets) {
    return refusal(with_header(one(dtype, shape, offsets), four));
  };
  EXPECT_EQ(entry("F32", "[1]", "[0,4]"), "");
  EXPECT_EQ(entry("BOOL", "[4]", "[0,4]"), "");
  EXPECT_EQ(entry("F33", "[1]", "[0,4]"), "");  // of the future: nobody knows its size
  EXPECT_THAT(entry("BOOL", "[1]", "[0,4]"), HasSubstr("BOOL of shape [1] takes 1 bytes"));
  EXPECT_THAT(entry("F4", "[9]", "[0,4]"), HasSubstr("F4 of shape [9] takes 5 bytes"));
  EXPECT_THAT(entry("F32", "[2]", "[0,4]"), HasSubstr("takes 8 bytes, the header gives it 4"));
  EXPECT_THAT(entry("F32", "[-1]", "[0,4]"), HasSubstr("found -1"));
  EXPECT_THAT(entry("F32", "[1.0]", "[0,4]"), HasSubstr("found 1.0"));
  EXPECT_THAT(entry("F32", "[1e400]", "[0,4]"), HasSubstr("not JSON"));
  EXPECT_THAT(entry("F32", "[18446744073709551616]", "[0,4]"), HasSubstr("whole numbers"));
  EXPECT_THAT(entry("F32", "[9223372036854775808]", "[0,4]"), HasSubstr("whole numbers"));
  EXPECT_THAT(entry("F32", "[4294967296,4294967296]", "[0,4]"), HasSubstr("more than 2^64"));
  EXPECT_THAT(entry("F32", "[4611686018427387905]", "[0,4]"), HasSubstr("more than 2^64"));
  EXPECT_THAT(entry("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"),
              HasSubstr("at most 16"));
  EXPECT_THAT(entry("F32", "1", "[0,4]"), HasSubstr("found 1"));
  EXPECT_THAT(entry("F32", "[[1]]", "[0,4]"), HasSubstr("an array"));
  EXPECT_THAT(entry("F32", "[1]", "[0,5]"), HasSubstr("[0, 5) lie outside the file's 4 bytes"));
  EXPECT_THAT(entry("F32", "[1]", "[4,0]"), HasSubstr("lie outside"));
  EXPECT_THAT(entry("F32", "[1]", "[-4,0]"), HasSubstr("found -4"));
  EXPECT_THAT(entry("F32", "[1]", "[18446744073709551612,18446744073709551615]"),
              HasSubstr("lie outside"));
  EXPECT_THAT(entry("F32", "[1]", "[0]"), HasSubstr("1 numbers, expected 2"));
  EXPECT_THAT(entry("F32", "[1]", "[0,4,4]"), HasSubstr("two whole numbers"));
  EXPECT_THAT(entry("U8", "[3]", "[1,4]"), HasSubstr("a hole before it"));
  EXPECT_THAT(entry("U8", "[3]", "[0,3]"), HasSubstr("end at byte 3"));
  EXPECT_THAT(refusal(with_header(R"({"t":{"shape":[0],"data_offsets":[0,0]}})")),
              HasSubstr("tensor t: no dtype"));
  EXPECT_THAT(
      refusal(with_header(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})")),
      HasSubstr("unknown key x"));
}

TEST(Safetensors, OverlapsAndHolesBetweenTensors) {
  auto two = [](const char* a, const char* b) {
    return refusal(with_header(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") +
                                   a + R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b +
                                   "}}",
                               std::string(9, '\0')));
  };
  EXPECT_THAT(two("[0,4]", "[2,6]"), HasSubstr("tensor b: data starts at byte 2, expected 4"));
  EXPECT_THAT(two("[0,4]", "[0,4]"), HasSubstr("overlaps the tensor before"));
  EXPECT_THAT(two("[0,4]", "[5,9]"), HasSubstr("a hole before it"));
}

TEST(Safetensors, NamesInMessagesAreHarmless) {
  std::string name(5000, 'n');
  std::string message = refusal(with_header(R"({"\u001b[31m)" + name + R"(":{}})"));
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_LT(message.size(), 500u);
}

TEST(Safetensors, NotAFile) {
  TempFolder dir;
  EXPECT_THROW(SafetensorsFile::open(dir.path()), Error);
  EXPECT_THROW(SafetensorsFile::open(dir.file("nothing")), Error);
  EXPECT_THROW(SafetensorsFile::open("/dev/null"), Error);
}

TEST(SafetensorsWriter, ThreadsWriteInAnyOrder) {
  TempFolder dir;
  std::string path = dir.file("w.safetensors");
  constexpr int kTensors = 16;
  std::vector<TensorDecl> list;
  for (int i = 0; i < kTensors; ++i)
    list.push_back({"t" + std::to_string(i), DType::i32, {i, 100}});
  {
    SafetensorsWriter writer(path, list);
    std::vector<std::thread> threads;
    for (int k = 0; k < 4; ++k)
      threads.emplace_back([&, k] {
        for (int i = kTensors - 1 - k; i >= 0; i -= 4)
          for (int row = i - 1; row >= 0; --row) {
            std::vector<int32_t> values(100, i * 1000 + row);
            writer.write(i, row * 400, values.data(), 400);
          }
      });
    for (std::thread& t : threads) t.join();
    EXPECT_FALSE(std::filesystem::exists(path)) << "nothing under the name before finish";
    writer.finish();
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  SafetensorsFile file = SafetensorsFile::open(path);
  for (int i = 0; i < kTensors; ++i) {
    const StoredTensor& t = file.at("t" + std::to_string(i));
    ASSERT_EQ(t.elements(), i * 100);
    for (int64_t e = 0; e < t.elements(); ++e) {
      int32_t v;
      std::memcpy(&v, t.data + 4 * e, 4);
      ASSERT_EQ(v, i * 1000 + e / 100);
    }
  }
}

TEST(SafetensorsWriter, UnfinishedFilesVanish) {
  TempFolder dir;
  std::string path = dir.file("w.safetensors");
  write_file(path, "the old file");
  {
    SafetensorsWriter writer(path, {{"t", DType::f32, {4}}});
    EXPECT_TRUE(std::filesystem::exists(path + ".part"));
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  EXPECT_EQ(read_file(path), "the old file");
}

TEST(SafetensorsWriter, TakesOverWhatAKilledRunLeft) {
  TempFolder dir;
  std::string path = dir.file("w.safetensors");
  write_file(path + ".part", std::string(100000, 'x'));
  float f = 5;
  write_safetensors(path, {{"t", DType::f32, {1}, &f}});
  EXPECT_EQ(to_floats(SafetensorsFile::open(path).at("t")), std::vector<float>{5});
}

TEST(SafetensorsWriter, OneWriterAtATime) {
  TempFolder dir;
  SafetensorsWriter writer(dir.file("w"), {{"t", DType::f32, {4}}});
  EXPECT_THROW(SafetensorsWriter(dir.file("w"), {{"t", DType::f32, {4}}}), Error);
}

TEST(SafetensorsWriter, SaysWhyItCannotWrite) {
  TempFolder dir;
  EXPECT_THROW(write_safetensors(dir.file("no/folder"), {}), Error);
  try {
    SafetensorsWriter writer(dir.file("w"), {{"t", DType::u8, {int64_t{1} << 55}}});
    FAIL() << "a petabyte was reserved";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("it takes 36028797018964"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir.file("w.part")));
}

// A device that a file is renamed over is gone for every program.
TEST(SafetensorsWriter, LeavesWhatIsNoFileAlone) {
  TempFolder dir;
  ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
  for (const std::string& path : {dir.file("pipe"), dir.path(), std::string("/dev/null")}) {
    try {
      SafetensorsWriter writer(path, {{"t", DType::f32, {4}}});
      FAIL() << path;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(),
                  AllOf(HasSubstr("cannot write " + path), HasSubstr("a file is expected")));
    }
    EXPECT_FALSE(std::filesystem::exists(path + ".part")) << path;
  }
  EXPECT_TRUE(std::filesystem::is_fifo(dir.file("pipe")));
  std::filesystem::create_symlink("target", dir.file("link"));
  const float values[4] = {1, 2, 3, 4};
  write_safetensors(dir.file("link"), {{"t", DType::f32, {4}, values}});
  EXPECT_TRUE(std::filesystem::is_symlink(dir.file("link")));
  EXPECT_EQ(SafetensorsFile::open(dir.file("target")).at("t").elements(), 4u);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST(SafetensorsWriterDeathTest, MissingBytesAreABug) {
  TempFolder dir;
  SafetensorsWriter writer(dir.file("w"), {{"t", DType::f32, {4}}});
  EXPECT_DEATH(writer.finish(), "0 of 16 bytes written");
  float f[5] = {};
  EXPECT_DEATH(writer.write(0, 4, f, 16), "tensor t");
}

}  // namespace
}  // namespace fathom
