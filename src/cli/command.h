// The frame of the command line. Each subcommand has a file with one function that adds it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace fathom::cli {

// A subcommand adds its options to a CLI::App and sets what to run with on_run(). Options live in a
// shared struct captured by the callback. `run` returns the exit code; it may throw Error (exit 1)
// or UsageError (exit 2).
using Run = std::function<int()>;
void on_run(CLI::App& command, Run run);

// Throws UsageError if mpirun has started several processes.
void require_one_process(const CLI::App& command);

void add_inspect(CLI::App& app);
void add_convert(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_logits(CLI::App& app);
void add_selfcheck(CLI::App& app);
void add_bench(CLI::App& app);
void add_plan(CLI::App& app);
void add_eval(CLI::App& app);
void add_serve(CLI::App& app);
void add_encode(CLI::App& app);
void add_decode(CLI::App& app);
void add_parse(CLI::App& app);
void add_make_checkpoint(CLI::App& app);

// Parses the command line and runs the command. Returns the exit code: 0 done, 1 an Error, 2 a
// UsageError.
int main_with(int argc, char** argv);

// Reads a whole text file, without a byte order mark at its beginning; "-" is standard input.
// Throws Error when it cannot be read, and for UTF-16.
std::string read_all(const std::string& path);

}  // namespace fathom::cli
