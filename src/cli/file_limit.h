// The limit of open files.
#pragma once

namespace fathom::cli {

// As high as it may go: every connection is a file descriptor, and the usual limit is 1024.
void raise_file_limit();

}  // namespace fathom::cli
