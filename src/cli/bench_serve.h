// fathom bench serve: a load on a server that speaks OpenAI's protocol, this one or another.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace fathom::cli {

// Adds the subcommand to `bench`; what is returned runs it when it was given, and says whether it
// was.
std::function<bool(int& exit_code)> add_bench_serve(CLI::App& bench);

}  // namespace fathom::cli
