// Standard output and standard error where they may be closed, full, or without a reader.
//
// A command that cannot write to standard error goes on and keeps its own exit code: messages there
// are extra. A command that cannot write to standard output has lost its result: it prints one line
// on standard error and ends with exit code 1. A pipe whose reader has gone (`fathom decode ... |
// head`) is not a failure: the command ends quietly by SIGPIPE, as other programs do.
#pragma once

#include <exception>
#include <string_view>
#include <system_error>

namespace fathom::cli {

// To be called before anything else. Opens /dev/null in the place of closed descriptors 0, 1 and 2,
// so that no file opened later gets one of these numbers. Failed writes to stderr are ignored from
// then on.
void guard_standard_streams();

// Thrown where a write to standard output has failed. It is not an Error, because handlers of Error
// go on with the next prompt or the next line of a conversation; main_with() ends the program.
class OutputLost : public std::exception {
 public:
  const char* what() const noexcept override { return "standard output cannot be written"; }
};

// Writes all of `text` to standard output, unbuffered. Never throws, so destructors and callbacks
// of C libraries may call it; output_lost() tells whether it failed.
void write_out(std::string_view text);

// Flushes standard output; true if this or any write before it has failed.
bool output_lost();
// Flushes likewise, and throws OutputLost in place of returning true.
void check_output();

// True if fmt::print threw `error` because standard output cannot be written; output_lost() returns
// true from then on.
bool is_output_error(const std::system_error& error);

// Returns the program's exit code: `code`, or 1, after a line on standard error, if output was
// lost. Does not return where the reader of a pipe has gone.
int end_of_output(int code);

}  // namespace fathom::cli
