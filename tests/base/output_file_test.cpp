// What commands write where the user has said.
#include "base/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::TempFolder;
using testing::HasSubstr;

std::string refusal(const std::string& path) {
  std::string said;
  for (const auto& write : {+[](const std::string& p) { output_file(p); },
                            +[](const std::string& p) { check_output_file(p); },
                            +[](const std::string& p) { write_output_file(p, "x"); }})
    try {
      write(path);
      ADD_FAILURE() << path;
    } catch (const Error& e) {
      if (said.empty()) said = e.what();
      EXPECT_EQ(said, e.what());
    }
  return said;
}

TEST(OutputFile, ReplacesAFileAsAWhole) {
  TempFolder dir;
  write_output_file(dir.file("a"), "longer than the next");
  write_output_file(dir.file("a"), "next");
  EXPECT_EQ(read_file(dir.file("a")), "next");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1) << "a part was left";
}

TEST(OutputFile, LinksStayLinks) {
  TempFolder dir;
  fs::create_directory(dir.file("deep"));
  fs::create_symlink("deep/target", dir.file("relative"));
  fs::create_symlink(dir.file("relative"), dir.file("deep/twice"));
  for (const char* link : {"relative", "deep/twice"}) {
    EXPECT_EQ(output_file(dir.file(link)), dir.file("deep/target"));
    check_output_file(dir.file(link));
    write_output_file(dir.file(link), link);  // at first to a file that is not there
    EXPECT_TRUE(fs::is_symlink(dir.file(link)));
    EXPECT_EQ(read_file(dir.file("deep/target")), link);
  }
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(dir.file("deep/target"))));
}

TEST(OutputFile, OnlyFilesAreWritten) {
  TempFolder dir;
  ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
  fs::create_symlink("/dev/null", dir.file("null"));
  fs::create_symlink("loop", dir.file("loop"));
  for (const std::string& path : {dir.file("pipe"), dir.file("null"), std::string("/dev/full")})
    EXPECT_EQ(refusal(path),
              "cannot write " + path + ": it is a device, pipe or socket, and a file is expected");
  EXPECT_EQ(refusal(dir.path()),
            "cannot write " + dir.path() + ": it is a folder, and a file is expected");
  EXPECT_THAT(refusal(dir.file("loop")), HasSubstr("loop: Too many levels of symbolic links"));
  EXPECT_TRUE(fs::is_character_file("/dev/null") && fs::is_character_file("/dev/full"));
  EXPECT_TRUE(fs::is_symlink(dir.file("null")) && fs::is_fifo(dir.file("pipe")));
}

TEST(OutputFile, FoldersThatAreNotThereAreToldBefore) {
  try {
    check_output_file("/no/such/folder/f");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "cannot write /no/such/folder/f: No such file or directory");
  }
}

}  // namespace
}  // namespace fathom
