// A checkpoint whose MTP block is not whole: refused where drafts are asked for, served without
// them where they are not.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "cli/run_fathom.h"
#include "io/safetensors.h"
#include "support/raw_safetensors.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const std::string kGone = "model.layers.5.hnorm.weight";

// The bundled model's third file without one tensor of the block.
std::string file_without(const std::string& path, const std::string& name) {
  const SafetensorsFile whole = SafetensorsFile::open(path);
  std::vector<test::RawTensor> left;
  for (const StoredTensor& t : whole.tensors())
    if (t.name != name)
      left.push_back({t.name,
                      std::string(name_of(t.dtype)),
                      t.shape,
                      {reinterpret_cast<const char*>(t.data), t.bytes}});
  EXPECT_EQ(left.size() + 1, whole.tensors().size());
  return test::raw_safetensors(left);
}

TEST(IncompleteBlock, IsRefusedOnlyWhereDraftsAreAskedFor) {
  test::TempFolder dir;
  const std::string third = "model-00003-of-000003.safetensors";
  for (const auto& entry : fs::directory_iterator(test::kSmall)) {
    const std::string name = entry.path().filename();
    if (entry.is_regular_file() && name != third && name != "model.safetensors.index.json")
      fs::create_symlink(entry.path(), dir.file(name));
  }
  test::write_file(dir.file(third), file_without(test::kSmall + "/" + third, kGone));
  test::write_file(dir.file("question"), "Hello!\n");

  const std::string device = " --device cpu --threads 1 ";
  const std::string generate = "generate --interactive --temperature 0 --ckpt-path " + dir.path() +
                               device + "<" + dir.file("question") + " ";
  for (const std::string& command :
       {generate + "--speculative-tokens 1",
        generate + "--speculative-config '{\"num_speculative_tokens\": 2}'",
        "chat " + dir.path() + device + "--speculative-tokens 4",
        "serve --ckpt-path " + dir.path() + device + "--port 0 --speculative-tokens 1",
        "bench --ckpt-path " + dir.path() + device +
            "--context 64 --batch 1 --speculative-tokens 1"}) {
    const test::Ran r = test::run_fathom(command);
    EXPECT_EQ(r.code, 1) << command << "\n" << r.out;
    // One line; `serve` says its plan before it loads.
    std::string said = r.out;
    while (said.starts_with("plan: ")) said.erase(0, said.find('\n') + 1);
    EXPECT_THAT(said, AllOf(StartsWith("fathom: "), HasSubstr("missing: " + kGone))) << command;
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << r.out;
  }
  for (const char* not_asked : {"", "--speculative-tokens 0"}) {
    const test::Ran r = test::run_fathom(generate + not_asked);
    EXPECT_EQ(r.code, 0) << r.out;
    EXPECT_THAT(r.out,
                AllOf(HasSubstr("Hello! How can I help you today?"), Not(HasSubstr("drafts"))));
  }
}

TEST(AlwaysDrafts, IsRefusedWhereThereAreNone) {
  test::TempFolder dir;
  test::write_file(dir.file("question"), "Hello!\n");
  const std::string generate = "generate --interactive --temperature 0 --ckpt-path " +
                               test::kSmall + " --device cpu --threads 1 --speculative-always <" +
                               dir.file("question") + " ";
  for (const char* none : {"", "--speculative-tokens 0"}) {
    const test::Ran r = test::run_fathom(generate + none);
    EXPECT_EQ(r.code, 2) << r.out;
    EXPECT_THAT(r.out, HasSubstr("--speculative-always: there are no drafts here"));
  }
  const test::Ran r = test::run_fathom(generate + "--speculative-tokens 2");
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_THAT(r.out, HasSubstr("drafts: "));
}

TEST(BenchOfDrafts, TellsTokensAndAcceptance) {
  const std::string bench = "bench --ckpt-path " + test::kSmall +
                            " --device cpu --threads 1 --context 64 --batch 1 --decode-tokens 4"
                            " --repeat 1 --speculative-tokens 2 --acceptance ";
  test::Ran r = test::run_fathom(bench + "1");
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_THAT(r.out, AllOf(HasSubstr(" tok/step accepted\n"), HasSubstr("     3.00   100.0%\n")));
  r = test::run_fathom(bench + "0");
  EXPECT_THAT(r.out, HasSubstr("     1.00     0.0%\n"));
}

}  // namespace
}  // namespace fathom
