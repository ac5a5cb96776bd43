// `fathom bench serve`: sends a load to a server with OpenAI's protocol, this one or another.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace fathom::cli {

// Adds the subcommand to `bench`. Returns a function that runs it if it was given, and returns
// whether it was.
std::function<bool(int& exit_code)> add_bench_serve(CLI::App& bench);

}  // namespace fathom::cli
