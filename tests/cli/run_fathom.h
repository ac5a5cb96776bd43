// Runs the program as a user does, and names the models that tests run it on.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace fathom::test {

inline const std::string kSmall = FATHOM_SOURCE_DIR "/models/small";
inline const std::string kTiny = FATHOM_SOURCE_DIR "/tests/data/tiny";

struct Ran {
  int code;
  std::string out;  // standard output and error together
};

// Runs `fathom ARGUMENTS` through a shell. The exit code is -1 where a signal ended it.
inline Ran run_fathom(const std::string& arguments) {
  const std::string command = std::string(FATHOM_BINARY) + " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  Ran ran{-1, {}};
  if (!pipe) return ran;
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof(block), pipe)) > 0;) ran.out.append(block, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ran.code = WEXITSTATUS(status);
  return ran;
}

}  // namespace fathom::test
