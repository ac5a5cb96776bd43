#include "cli/command.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/numa.h"
#include "base/version.h"
#include "cli/output.h"
#include "cli/processes.h"
#include "io/json_file.h"

namespace fathom::cli {
namespace {

// A command as it is written: "eval parity".
std::string words_of(const CLI::App& command) {
  const CLI::App* above = command.get_parent();
  if (!above || !above->get_parent()) return command.get_name();
  return words_of(*above) + " " + command.get_name();
}

}  // namespace

void require_one_process(const CLI::App& command) {
  if (process_link())
    throw UsageError(
        fmt::format("{} runs in one process: start it without mpirun", words_of(command)));
}

void on_run(CLI::App& command, Run run) {
  command.callback([&command, run = std::move(run)] {
    // Commands that can be spread over processes have this option; plan has sizes, but no ranks.
    if (!command.get_option_no_throw("--exchange-timeout")) require_one_process(command);
    if (int code = run(); code != 0) throw CLI::RuntimeError(code);
  });
}

namespace {

std::string read_bytes(const std::string& path) {
  if (path != "-") return read_file(path, SIZE_MAX - 1);
  std::string text;
  char block[1 << 16];
  for (size_t n; (n = std::fread(block, 1, sizeof(block), stdin)) > 0;) text.append(block, n);
  if (std::ferror(stdin)) fail("cannot read standard input: {}", std::strerror(errno));
  return text;
}

}  // namespace

std::string read_all(const std::string& path) {
  std::string bytes = read_bytes(path);
  const std::string origin = path == "-" ? "standard input" : path;
  const std::string_view text = without_byte_order_mark(bytes, origin);
  const size_t mark = bytes.size() - text.size();
  if (mark > 0) fmt::print(stderr, "note: {}: the byte order mark in front is left out\n", origin);
  return bytes.erase(0, mark);
}

namespace {

int parse_and_run(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    // CLI11 also reports --help and --version this way; all other parse errors are usage errors
    // (2).
    std::ostringstream out, err;
    const int code = app.exit(e, out, err) == 0 ? 0 : 2;
    write_out(out.str());
    fmt::print(stderr, "{}", err.str());
    return code;
  } catch (const UsageError& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 2;
  } catch (const OutputLost&) {
    return 1;  // end_of_output() says so
  } catch (const std::system_error& e) {
    if (!is_output_error(e)) fmt::print(stderr, "fathom: {}\n", e.what());
    return 1;
  } catch (const std::exception& e) {
    if (!process_failure_said(e.what())) fmt::print(stderr, "fathom: {}\n", e.what());
    return 1;
  }
}

// The commands by what they are for, as --help lists them.
const std::pair<const char*, std::vector<void (*)(CLI::App&)>> kPurposes[] = {
    {"Use a model", {add_chat, add_generate, add_serve}},
    {"Prepare a checkpoint", {add_inspect, add_convert, add_make_checkpoint}},
    {"Check and measure", {add_selfcheck, add_logits, add_eval, add_bench, add_plan}},
    {"Text and tokens", {add_encode, add_decode, add_parse}},
};

}  // namespace

int main_with(int argc, char** argv) {
  guard_standard_streams();
  try {
    if (const std::optional<int> code = join_launched_processes(argc, argv)) return *code;
  } catch (const Error& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 1;
  }
  CLI::App app{"fathom: run DeepSeek-V3.2 yourself, faithful to the model"};
  app.name("fathom");
  app.require_subcommand(1);
  app.set_help_flag("-h,--help", "print this and exit");
  app.set_version_flag("--version", fmt::format("fathom {}", kVersion),
                       "print the version and exit");
  for (const auto& [purpose, commands] : kPurposes) {
    for (void (*add)(CLI::App&) : commands) add(app);
    for (CLI::App* command : app.get_subcommands({}))
      if (command->get_group() == "Subcommands") command->group(purpose);
  }
  if (int nodes = spread_memory_over_nodes(); nodes > 1)
    fmt::print(stderr, "memory is spread over {} NUMA nodes\n", nodes);
  const int code = parse_and_run(app, argc, argv);
  end_processes();
  return end_of_output(code);
}

}  // namespace fathom::cli
