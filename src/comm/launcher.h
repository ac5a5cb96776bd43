// The program that started this process: Open MPI's mpirun on the first machine of a run, its
// daemon on the others.
#pragma once

namespace fathom {

// For a process that is about to end because another machine cannot be reached: neither mpirun nor
// its daemons notice that, and they wait for each other for as long as TCP repeats what it has
// sent. A child of this process, which outlives it, ends the launcher if that has not ended by
// itself after a while. Does nothing if the parent is no launcher of Open MPI.
void end_launcher_that_waits();

}  // namespace fathom
