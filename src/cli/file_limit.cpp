#include "cli/file_limit.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdio>

namespace fathom::cli {

void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
    fmt::print(stderr, "note: the limit of open files could not be raised\n");
}

}  // namespace fathom::cli
