// The limit of open files.
#pragma once

namespace fathom::cli {

// Raises the limit of open files as far as allowed: every connection needs one, and the usual limit
// is 1024.
void raise_file_limit();

}  // namespace fathom::cli
