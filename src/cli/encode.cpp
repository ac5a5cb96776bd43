// fathom encode: the prompt that a text or a conversation becomes, as text or as token ids.
#include <fmt/ranges.h>
#include <unistd.h>

#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/chat.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

struct EncodeFlags {
  std::string checkpoint, text, text_file, messages, encoding;
  bool has_text = false, thinking = false, keep_earlier = false, ids = false, plain = false;
};

// Writes exactly the prompt, so that it can be piped; a terminal also gets a newline.
void print_prompt(const std::string& text) {
  write_out(text);
  if (isatty(STDOUT_FILENO)) write_out("\n");
}

void print_ids(const std::vector<int32_t>& ids) { fmt::print("{}\n", fmt::join(ids, " ")); }

int encode_messages(const EncodeFlags& o) {
  const std::string origin = o.messages == "-" ? "standard input" : o.messages;
  const Conversation conversation = parse_conversation(read_all(o.messages), origin);
  const Encoding encoding = choose_encoding(o.encoding, o.checkpoint);
  fmt::print(stderr, "encoding: {}\n", encoding_name(encoding));
  for (const Message& m : conversation) {
    if (encoding == Encoding::v31 && !m.response_format.is_null()) {
      fmt::print(stderr, "note: the v3.1 encoding has no response_format; it is left out\n");
    }
  }
  const auto prompt = render(conversation, {encoding, o.thinking, o.keep_earlier});
  if (o.ids) {
    print_ids(encode_segments(Tokenizer::from_folder(o.checkpoint), prompt));
  } else {
    print_prompt(to_text(prompt));
  }
  return 0;
}

int run_text(const EncodeFlags& o) {
  // A command line is refused where it is not UTF-8; files may hold anything.
  if (o.has_text) require_utf8(o.text, "--text");
  const std::string text = o.has_text ? o.text : replace_invalid_utf8(read_all(o.text_file));
  const Tokenizer tokenizer = Tokenizer::from_folder(o.checkpoint);
  if (o.ids) {
    print_ids(o.plain ? tokenizer.encode_plain(text) : encode_text(tokenizer, text));
  } else {
    print_prompt(text);
  }
  return 0;
}

}  // namespace

void add_encode(CLI::App& app) {
  auto o = std::make_shared<EncodeFlags>();
  CLI::App* command =
      app.add_subcommand("encode", "show the prompt a text or a conversation becomes");
  command->add_option("--ckpt-path", o->checkpoint, "checkpoint folder (its tokenizer is used)")
      ->required();
  CLI::Option_group* input = command->add_option_group("input", "one of");
  input->add_option("--text", o->text, "text; added tokens in it count as such")
      ->each([o](const std::string&) { o->has_text = true; });
  input->add_option("--text-file", o->text_file, "the same from a file, - for standard input");
  CLI::Option* messages = input->add_option(
      "--messages", o->messages, "JSON file of OpenAI-style messages, - for standard input");
  input->require_option(1);
  command->add_option("--encoding", o->encoding, "v3.1 or v3.2 (default: what the folder says)")
      ->check(CLI::IsMember({"v3.1", "v3.2"}))
      ->needs(messages);
  command->add_flag("--thinking", o->thinking, "open the answer with reasoning")->needs(messages);
  command
      ->add_flag("--keep-earlier", o->keep_earlier,
                 "v3.2: keep developer messages before the last question")
      ->needs(messages);
  command->add_flag("--ids", o->ids, "print token ids on one line");
  command->add_flag("--plain", o->plain, "added tokens in the text are ordinary text")
      ->excludes(messages);
  on_run(*command, [o] { return o->messages.empty() ? run_text(*o) : encode_messages(*o); });
}

}  // namespace fathom::cli
