// The entry functions of fuzz/ on inputs that are kept: whole, cut short at every length, and with
// single bits flipped. Each function checks its own promises and aborts when one is broken.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#define FUZZ_ENTRY(name) extern "C" int name(const uint8_t* data, size_t size);
#include "fuzz_entries.inc"
#undef FUZZ_ENTRY

namespace fathom {
namespace {

struct Entry {
  const char* name;
  int (*run)(const uint8_t*, size_t);
};

#define FUZZ_ENTRY(name) {#name, name},
constexpr Entry kEntries[] = {
#include "fuzz_entries.inc"
};
#undef FUZZ_ENTRY

constexpr size_t kVariants = 100;  // of each kind and file, spread evenly over longer ones

std::vector<std::filesystem::path> corpus_of(const std::string& entry) {
  const std::string folder = entry.substr(0, entry.size() - std::string("_fuzz").size());
  std::vector<std::filesystem::path> files;
  for (const auto& file :
       std::filesystem::directory_iterator(FATHOM_SOURCE_DIR "/tests/data/corpus/" + folder))
    files.push_back(file.path());
  std::sort(files.begin(), files.end());
  return files;
}

class FuzzCorpus : public testing::TestWithParam<Entry> {};

TEST_P(FuzzCorpus, InputsKeepThePromises) {
  const auto run = [](const std::string& bytes) {
    EXPECT_EQ(GetParam().run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), 0);
  };
  const auto files = corpus_of(GetParam().name);
  ASSERT_GE(files.size(), 2u);
  run("");
  for (const auto& path : files) {
    SCOPED_TRACE(path.string());
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    ASSERT_FALSE(bytes.empty());
    run(bytes);
    const size_t step = std::max<size_t>(1, bytes.size() / kVariants);
    for (size_t at = 0; at < bytes.size(); at += step) {
      run(bytes.substr(0, at));
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << (at / step % 8)));
      run(flipped);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Entries, FuzzCorpus, testing::ValuesIn(kEntries),
                         [](const auto& entry) { return std::string(entry.param.name); });

}  // namespace
}  // namespace fathom
