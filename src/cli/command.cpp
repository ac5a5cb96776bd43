#include "cli/command.h"

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/numa.h"
#include "base/version.h"

namespace fathom::cli {

void on_run(CLI::App& command, Run run) {
  command.callback([run = std::move(run)] {
    if (int code = run(); code != 0) throw CLI::RuntimeError(code);
  });
}

std::string read_all(const std::string& path) {
  if (path == "-") {
    std::string text;
    char block[1 << 16];
    for (size_t n; (n = std::fread(block, 1, sizeof(block), stdin)) > 0;) text.append(block, n);
    return text;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot open {}: no such file, or not readable", path);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) fail("cannot read {}", path);
  return text;
}

int main_with(int argc, char** argv) {
  CLI::App app{"fathom: run DeepSeek-V3.2 yourself, faithful to the model"};
  app.name("fathom");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("fathom {}", kVersion));
  add_inspect(app);
  add_logits(app);
  add_generate(app);
  add_chat(app);
  add_convert(app);
  add_make_checkpoint(app);
  add_selfcheck(app);
  add_bench(app);
  add_eval(app);
  add_serve(app);
  add_parse(app);
  add_decode(app);
  add_encode(app);
  if (int nodes = spread_memory_over_nodes(); nodes > 1)
    fmt::print(stderr, "memory is spread over {} NUMA nodes\n", nodes);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    // CLI11 prints help and versions itself; everything else it finds wrong is usage.
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const UsageError& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 1;
  }
}

}  // namespace fathom::cli
