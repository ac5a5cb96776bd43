// fathom decode: the text that token ids stand for.
#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/tokenizer.h"

namespace fathom::cli {
namespace {

struct DecodeFlags {
  std::string checkpoint, ids;
};

int run_decode(const DecodeFlags& o) {
  const std::string origin = o.ids == "-" ? "standard input" : o.ids;
  const std::vector<int32_t> ids = parse_ids(read_all(o.ids), origin);
  for (const int32_t id : ids) {
    if (id < 0) fail("{}: expected token ids from 0 on, found {}", origin, id);
  }
  write_out(Tokenizer::from_folder(o.checkpoint).decode(ids));
  return 0;
}

}  // namespace

void add_decode(CLI::App& app) {
  auto o = std::make_shared<DecodeFlags>();
  CLI::App* command =
      app.add_subcommand("decode", "print the text of token ids, with no newline added");
  command->add_option("--ckpt-path", o->checkpoint, "checkpoint folder (its tokenizer is used)")
      ->required();
  command->add_option("--ids", o->ids, "file of ids with blanks between, - for standard input")
      ->required();
  on_run(*command, [o] { return run_decode(*o); });
}

}  // namespace fathom::cli
