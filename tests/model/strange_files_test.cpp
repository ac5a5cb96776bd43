// Checkpoint folders as downloads, archives and other tools leave them: tensors of dtypes that
// nothing here computes with, files that only look like shards, shards that are something else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "model/checkpoint.h"
#include "support/checkpoint_maker.h"
#include "support/raw_safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::CheckpointMaker;
using test::raw_safetensors;
using test::TempFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kLfsPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
const std::string kNorm = "model.norm.weight";

std::string refusal_of_folder(const std::string& dir) {
  try {
    Checkpoint::load(dir);
    return {};
  } catch (const Error& e) {
    return e.what();
  }
}

// Each with two elements' worth of bytes.
std::vector<std::pair<std::string, size_t>> foreign_dtypes() {
  return {{"BOOL", 2},    {"I8", 2},   {"I16", 4},     {"U16", 4},     {"U32", 8},
          {"U64", 16},    {"F64", 16}, {"F8_E5M2", 2}, {"F8_E8M0", 2}, {"F4", 1},
          {"F6_E2M3", 2}, {"C64", 16}, {"F8_E9M9", 7}};
}

TEST(StrangeFiles, TensorsThatNobodyNeedsMayHaveAnyDtype) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  for (const auto& [dtype, bytes] : foreign_dtypes()) {
    TempFolder dir;
    maker.write(dir);
    test::write_file(dir.file("more.safetensors"),
                     raw_safetensors({{"a.mask", dtype, {2}, std::string(bytes, '\1')}}));
    const auto checkpoint = Checkpoint::load(dir.path());
    EXPECT_THAT(checkpoint->warnings(),
                ElementsAre(AllOf(HasSubstr("not used: a.mask " + dtype + " [2] in "),
                                  HasSubstr("more.safetensors"))));
  }
}

TEST(StrangeFiles, OneThatIsNeededIsNamed) {
  for (const auto& [dtype, bytes] : foreign_dtypes()) {
    CheckpointMaker maker = CheckpointMaker::tiny();
    maker.tensors.erase(kNorm);
    TempFolder dir;
    maker.write(dir);
    test::write_file(dir.file("more.safetensors"),
                     raw_safetensors({{kNorm, dtype, {2}, std::string(bytes, '\1')}}));
    EXPECT_THAT(refusal_of_folder(dir.path()),
                HasSubstr("unknown dtype: " + kNorm + " is " + dtype + ", expected one of F32"));
  }
  // The scales of an FP8 weight in the format that newer tools like.
  const std::string weight = "model.layers.0.self_attn.q_b_proj.weight";
  CheckpointMaker maker = CheckpointMaker::tiny();
  const std::vector<int64_t> shape = maker.tensors.at(weight + "_scale_inv").shape;
  maker.tensors.erase(weight + "_scale_inv");
  TempFolder dir;
  maker.write(dir);
  test::write_file(
      dir.file("more.safetensors"),
      raw_safetensors({{weight + "_scale_inv", "F8_E8M0", shape,
                        std::string(static_cast<size_t>(shape[0] * shape[1]), '\177')}}));
  EXPECT_THAT(refusal_of_folder(dir.path()),
              HasSubstr("unknown dtype: " + weight + "_scale_inv is F8_E8M0, expected F32"));
}

TEST(StrangeFiles, AnIndexMayNameThem) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  test::write_file(dir.file("more.safetensors"),
                   raw_safetensors({{"a.mask", "BOOL", {3}, "\1\1\1"}}));
  nlohmann::json map = {{"a.mask", "more.safetensors"}};
  for (const auto& [name, tensor] : maker.tensors) map[name] = "model.safetensors";
  // With the byte order mark that an editor has put in front.
  test::write_file(dir.file("model.safetensors.index.json"),
                   "\xEF\xBB\xBF" + nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_THAT(Checkpoint::load(dir.path())->warnings(), ElementsAre(HasSubstr("a.mask BOOL [3]")));
}

// What Macintoshes and programs that write leave beside the shards.
TEST(StrangeFiles, HiddenFilesAreNoShards) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  test::write_file(dir.file("._model.safetensors"), std::string("\0\5\26\7\0\2\0\0Mac OS X", 16));
  test::write_file(dir.file(".model.safetensors.tmp.safetensors"), "half");
  fs::create_directory(dir.file("folder.safetensors"));
  EXPECT_EQ(refusal_of_folder(dir.path()), "");
  fs::remove(dir.file("model.safetensors"));
  EXPECT_EQ(refusal_of_folder(dir.path()), "not a checkpoint: no *.safetensors in " + dir.path());
}

TEST(StrangeFiles, WhatIsNoShardIsCalledWhatItIs) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  const std::pair<std::string, const char*> cases[] = {
      {kLfsPointer, "a Git LFS pointer"},
      {"<!DOCTYPE html>\n<html><title>401</title></html>", "an HTML page"},
      {"", "it is empty"},
      {"Entry not found", "it is text, \"Entry not found\""},
      {"{\"error\":\"Repository not found\"}\n", "it is text, \"{\"error\":"},
      {"PK\x03\x04-------------------", "a ZIP archive"},
      {std::string("GGUF\3\0\0\0--------", 16), "a GGUF file"},
  };
  for (const auto& [content, what] : cases) {
    TempFolder dir;
    maker.write(dir);
    test::write_file(dir.file("model-2.safetensors"), content);
    EXPECT_THAT(refusal_of_folder(dir.path()),
                AllOf(HasSubstr("model-2.safetensors: not a safetensors file"), HasSubstr(what)));
    // With an index that names it.
    test::write_file(dir.file("model.safetensors.index.json"),
                     R"({"weight_map": {"a": "model-2.safetensors"}})");
    EXPECT_THAT(refusal_of_folder(dir.path()), HasSubstr(what));
  }
  for (const char* name : {"config.json", "model.safetensors.index.json"}) {
    TempFolder dir;
    maker.write(dir);
    test::write_file(dir.file(name), kLfsPointer);
    EXPECT_THAT(refusal_of_folder(dir.path()),
                AllOf(HasSubstr(name), HasSubstr("a Git LFS pointer")));
    test::write_file(dir.file(name), std::string("\xFF\xFE{\0}\0", 6));
    EXPECT_THAT(refusal_of_folder(dir.path()), AllOf(HasSubstr(name), HasSubstr("UTF-16")));
  }
}

TEST(StrangeFiles, DownloadsThatDidNotFinishAreNamed) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  for (const char* name : {"model.safetensors.part", "model.safetensors.incomplete",
                           "model.safetensors.aria2", "model.safetensors.crdownload"}) {
    TempFolder dir;
    maker.write_config(dir);
    test::write_file(dir.file(name), "half");
    EXPECT_THAT(refusal_of_folder(dir.path()),
                AllOf(HasSubstr("no *.safetensors in"),
                      HasSubstr(std::string("downloads that did not finish: ") + name)));
    test::write_file(dir.file("model.safetensors.index.json"),
                     R"({"weight_map": {"a": "model.safetensors"}})");
    EXPECT_THAT(refusal_of_folder(dir.path()),
                AllOf(HasSubstr("are missing: model.safetensors"), HasSubstr(name)));
  }
}

// The cache of huggingface_hub: links of a snapshot, relative, to blobs beside it.
TEST(StrangeFiles, LinksLeadToWhatTheyPointAt) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  const fs::path blobs = fs::path(dir.path()) / "blobs",
                 snapshot = dir.file("snapshots/with blanks");
  fs::create_directories(blobs);
  fs::create_directories(snapshot);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::rename(dir.file(name), blobs / (std::string("sha-") + name));
    fs::create_symlink(fs::path("../../blobs") / (std::string("sha-") + name), snapshot / name);
  }
  EXPECT_EQ(refusal_of_folder(snapshot), "");
  fs::remove(blobs / "sha-model.safetensors");
  EXPECT_THAT(refusal_of_folder(snapshot), HasSubstr("model.safetensors: No such file"));
}

}  // namespace
}  // namespace fathom
