// The frame of the command line: one file a subcommand, each with one function that adds itself.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace fathom::cli {

// A subcommand registers its options on a CLI::App and hands over what to run. Options live in a
// shared struct captured by the callback. `run` returns the exit code; it may throw Error (exit 1)
// or UsageError (exit 2).
using Run = std::function<int()>;
void on_run(CLI::App& command, Run run);

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

// Parses and runs; returns the exit code: 0 done, 1 the world is wrong, 2 usage.
int main_with(int argc, char** argv);

// Reads a whole text file byte for byte, but for a byte order mark in front; "-" is standard input.
// Throws Error when it cannot, and for UTF-16.
std::string read_all(const std::string& path);

}  // namespace fathom::cli
