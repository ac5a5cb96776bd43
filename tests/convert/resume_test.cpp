// What is left of a conversion that was broken off, at every stage of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/copier.h"
#include "convert/disk_space.h"
#include "convert/staging.h"
#include "support/checkpoint_maker.h"
#include "support/shards.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::expect_same_files;
using test::looks_whole;
using test::TempFolder;
using ::testing::HasSubstr;
using State = ConvertResult::State;

const std::string kTiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";

class Resume : public ::testing::Test {
 protected:
  // A finished conversion to compare with, and what a broken run would have had in its hands.
  Resume() : source_(open_source(kTiny)), plan_(plan_shards(load_config(kTiny), source_, 2)) {
    run(clean_.path());
    manifest_ = test::read_file(clean_.file("conversion.json"));
    for (const auto& rank : plan_.ranks) layouts_.push_back(layout_safetensors(rank));
  }

  ConvertResult run(const std::string& save) {
    ConvertOptions o;
    o.source = kTiny;
    o.save = save;
    o.experts = 12;
    o.ranks = 2;
    said_.clear();
    return convert(o, [&](const std::string& line) { said_ += line + "\n"; });
  }

  std::vector<PartFile> parts(const Staging& staging) {
    std::vector<PartFile> parts;
    for (int r = 0; r < 2; ++r)
      parts.emplace_back(staging.path(fmt::format("model{}-mp2.safetensors", r)), layouts_[r]);
    return parts;
  }

  // As a run leaves it that was killed after `pieces` pieces were noted; returns the bytes left.
  uint64_t break_off_after(const std::string& save, uint64_t pieces) {
    Staging staging(save, manifest_);
    staging.restart();
    std::vector<PartFile> files = parts(staging);
    for (PartFile& p : files) p.create();
    Copier copier(source_, plan_, files, 1);
    for (uint64_t i = 0; i < pieces; ++i) copier.copy(i, 0);
    if (pieces > 0) staging.note_done(pieces);
    return copier.bytes_before(copier.pieces()) - copier.bytes_before(pieces);
  }

  TempFolder clean_, save_;
  Source source_;
  ShardPlan plan_;
  std::vector<SafetensorsLayout> layouts_;
  std::string manifest_, said_;
};

TEST_F(Resume, SaysWhenItIsDone) {
  EXPECT_EQ(run(clean_.path()).state, State::already_done);
  expect_same_files(clean_.path(), clean_.path());
}

TEST_F(Resume, GoesOnWhereItStopped) {
  for (uint64_t pieces : {uint64_t{1}, uint64_t{100}, uint64_t{plan_.jobs.size() - 1}}) {
    TempFolder save;
    uint64_t left = break_off_after(save.path(), pieces);
    EXPECT_FALSE(looks_whole(save.path()));
    ConvertResult result = run(save.path());
    EXPECT_EQ(result.state, State::written);
    EXPECT_EQ(result.read_bytes, left) << "finished pieces must not be copied again";
    EXPECT_THAT(said_, HasSubstr("resuming"));
    expect_same_files(save.path(), clean_.path());
  }
}

TEST_F(Resume, StartsAgainBeforeTheFirstNote) {
  break_off_after(save_.path(), 0);
  EXPECT_FALSE(looks_whole(save_.path()));
  EXPECT_EQ(run(save_.path()).state, State::written);
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, DoesNotTrustPartsOfAnotherShape) {
  break_off_after(save_.path(), 200);
  std::string part = save_.file(".convert-part/model1-mp2.safetensors");
  fs::resize_file(part, fs::file_size(part) - 1);
  ConvertResult result = run(save_.path());
  EXPECT_EQ(result.state, State::written);
  EXPECT_THAT(said_, ::testing::Not(HasSubstr("resuming")));
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, ThrowsAwayWhatBelongsToAnotherPlan) {
  manifest_ += " ";
  break_off_after(save_.path(), 200);
  test::write_file(save_.file(".convert-part/rubbish"), "x");
  EXPECT_EQ(run(save_.path()).state, State::written);
  EXPECT_THAT(said_, ::testing::Not(HasSubstr("resuming")));
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, FinishesTheRenames) {
  // Killed with one file renamed and one not.
  break_off_after(save_.path(), 0);
  for (int r = 0; r < 2; ++r) {
    std::string name = fmt::format("model{}-mp2.safetensors", r);
    fs::copy_file(clean_.file(name), save_.file((r ? ".convert-part/" : "") + name),
                  fs::copy_options::overwrite_existing);
  }
  fs::remove(save_.file(".convert-part/model0-mp2.safetensors"));
  test::write_file(save_.file(".convert-part/done"), fmt::format("{}\n", UINT64_MAX));
  ConvertResult result = run(save_.path());
  EXPECT_EQ(result.state, State::written);
  EXPECT_EQ(result.read_bytes, 0u) << "nothing was left to copy";
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, FinishesWhenOnlyTheConfigIsMissing) {
  run(save_.path());
  fs::remove(save_.file("config.json"));
  ConvertResult result = run(save_.path());
  EXPECT_EQ(result.state, State::written);
  EXPECT_EQ(result.read_bytes, 0u);
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, RepairsADamagedResult) {
  run(save_.path());
  fs::resize_file(save_.file("model1-mp2.safetensors"), 1000);
  EXPECT_EQ(run(save_.path()).state, State::written);
  EXPECT_THAT(said_, HasSubstr("model1-mp2.safetensors is missing or damaged"));
  expect_same_files(save_.path(), clean_.path());
}

TEST_F(Resume, RefusesASecondConverter) {
  Staging busy(save_.path(), "other");
  EXPECT_THROW(run(save_.path()), Error);
}

TEST_F(Resume, DryRunWritesNothing) {
  ConvertOptions o;
  o.source = kTiny;
  o.save = save_.file("new");
  o.experts = 12;
  o.ranks = 2;
  o.dry_run = true;
  std::string said;
  EXPECT_EQ(convert(o, [&](const std::string& line) { said += line; }).state, State::planned);
  EXPECT_FALSE(fs::exists(o.save));
  EXPECT_THAT(said, HasSubstr(fmt::format("({} bytes)", layouts_[1].file_bytes)));
}

TEST(Convert, CopiesTokenizerAndSettingsButNotTheRest) {
  TempFolder source, save;
  test::CheckpointMaker::tiny().write(source);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                           "chat_template.jinja", "README.md", "LICENSE", "secret.json"})
    test::write_file(source.file(name), name);
  ConvertOptions o;
  o.source = source.path();
  o.save = save.path();
  o.experts = 12;
  convert(o, [](const std::string&) {});
  EXPECT_EQ(test::file_names(save.path()),
            (std::set<std::string>{"chat_template.jinja", "config.json", "conversion.json",
                                   "generation_config.json", "model0-mp1.safetensors",
                                   "tokenizer.json", "tokenizer_config.json"}));
  EXPECT_EQ(test::read_file(save.file("tokenizer.json")), "tokenizer.json");
}

TEST(DiskSpace, IsCheckedBeforehand) {
  TempFolder dir;
  EXPECT_NO_THROW(check_disk_space(dir.file("not/there/yet"), 1));
  try {
    check_disk_space(dir.path(), uint64_t{1} << 62);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("needed"));
    EXPECT_THAT(e.what(), HasSubstr("free"));
  }
}

}  // namespace
}  // namespace fathom
