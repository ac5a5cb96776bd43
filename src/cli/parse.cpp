// fathom parse: what a completion says, as an OpenAI-style message.
#include <fmt/format.h>

#include <memory>

#include "cli/command.h"
#include "text/completion_parser.h"

namespace fathom::cli {
namespace {

struct ParseFlags {
  std::string checkpoint, encoding;
  bool thinking = false;
};

int run_parse(const ParseFlags& o) {
  CompletionParser parser(choose_encoding(o.encoding, o.checkpoint), o.thinking);
  parser.feed(read_all("-"));
  parser.finish();
  OrderedJson json = message_to_json(parser.message());
  json["finish_reason"] = parser.finish_reason();
  fmt::print("{}\n", json.dump(2));
  return 0;
}

}  // namespace

void add_parse(CLI::App& app) {
  auto o = std::make_shared<ParseFlags>();
  CLI::App* command = app.add_subcommand(
      "parse", "read a completion from standard input and print its message as JSON");
  command->add_option("--ckpt-path", o->checkpoint, "checkpoint folder, which picks the encoding")
      ->required();
  command->add_option("--encoding", o->encoding, "v3.1 or v3.2 (default: what the folder says)")
      ->check(CLI::IsMember({"v3.1", "v3.2"}));
  command->add_flag("--thinking", o->thinking, "the completion begins inside the reasoning");
  on_run(*command, [o] { return run_parse(*o); });
}

}  // namespace fathom::cli
