// Standard output and standard error where they may be closed, full, or without a reader.
//
// What a command says on standard error is for whoever looks: where it cannot be written the
// command goes on, with its own exit code. What it writes to standard output is what it was run
// for: where that cannot be written, one line says so and the exit code is 1. A pipe whose reader
// has gone
// (`fathom decode ... | head`) is no fault: the command ends quietly by SIGPIPE, as other programs
// do.
#pragma once

#include <exception>
#include <string_view>
#include <system_error>

namespace fathom::cli {

// To be called first of all. Descriptors 0, 1 and 2 that are closed are taken, so that no file that
// is opened later gets one of them, and what is written to stderr can no longer fail.
void guard_standard_streams();

// Something that was written to standard output is lost. No Error: it is not about one prompt or
// one line of a conversation; main_with() ends the program.
class OutputLost : public std::exception {
 public:
  const char* what() const noexcept override { return "standard output cannot be written"; }
};

// Writes all of `text` to standard output at once. Never throws; output_lost() tells of a failure,
// so that it may be called where nothing may be thrown.
void write_out(std::string_view text);

// Sends on its way what is buffered: whether that, or anything before, failed.
bool output_lost();
// The same, as an OutputLost.
void check_output();

// Whether `error` is what fmt::print throws where standard output cannot be written; it is noted
// then.
bool is_output_error(const std::system_error& error);

// The end of the program: `code`, or 1 with a line on standard error when output was lost. Does not
// return when the reader of a pipe has gone.
int end_of_output(int code);

}  // namespace fathom::cli
