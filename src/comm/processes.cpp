// What is known of the launcher without MPI.
#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "comm/process_link.h"

namespace fathom {

int launched_processes() {
  const auto count_of = [](const char* variable) {
    const char* text = std::getenv(variable);
    return text ? std::atoi(text) : 1;
  };
  const int open_mpi = count_of("OMPI_COMM_WORLD_SIZE");
  if (open_mpi > 1) return open_mpi;
  // MPICH, Intel MPI and their kin.
  if (const int others = count_of("PMI_SIZE"); others > 1)
    fail(
        "started as one of {} processes by an MPI that is not Open MPI: fathom is built for Open "
        "MPI's mpirun",
        others);
  return 1;
}

int launched_process() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK"})
    if (const char* text = std::getenv(variable)) return std::atoi(text);
  return 0;
}

int launched_machines() {
  const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return std::max(1, launched_processes() / std::max(1, here ? std::atoi(here) : 1));
}

#if !defined(FATHOM_WITH_MPI)
std::unique_ptr<ProcessLink> join_processes(const ProcessIdentity&) {
  fail(
      "started by mpirun as one of {} processes, but this build of fathom has no MPI "
      "(libopenmpi-dev was not found when it was built)",
      launched_processes());
}
#endif

}  // namespace fathom
