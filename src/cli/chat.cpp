// fathom chat: a conversation with line editing, reasoning set apart, and Ctrl-C that stops the
// answer and not the program. Without a terminal it reads lines and writes plain text.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "cli/model_session.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "text/chat.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHelp =
    "/system TEXT      set the system message (without TEXT: take it away); starts anew\n"
    "/thinking on|off  let the model reason before it answers\n"
    "/stats            tokens and speed of the last answer and in total\n"
    "/save FILE        write the conversation as OpenAI-style messages\n"
    "/load FILE        go on from such a file\n"
    "/clear            forget what was said (the system message stays)\n"
    "/help             this list\n"
    "/exit             the end (as is Ctrl-D); Ctrl-C stops an answer\n";

struct ChatFlags {
  std::string checkpoint, history;
  GenerationOptions generation;
};

// The bundled model as seen from the program: in the source tree, or installed beside bin.
std::string bundled_model() {
  std::error_code ignored;
  const fs::path bin = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  std::string tried;
  for (const char* from_bin : {"../../models/small", "../share/fathom/models/small"}) {
    const fs::path folder = (bin / from_bin).lexically_normal();
    if (fs::exists(folder / "config.json", ignored)) return folder.string();
    tried += fmt::format("{}{}", tried.empty() ? "" : " and ", folder.string());
  }
  fail("the bundled model is not there (looked for {}): name a checkpoint folder", tried);
}

// Shows an answer as it arrives. Reasoning is dimmed or, without a terminal, marked by lines of its
// own.
class AnswerScreen {
 public:
  void show(const CompletionParser::Events& events) {
    for (const CompletionEvent& e : events) {
      switch (e.kind) {
        case CompletionEvent::Kind::reasoning:
          if (!reasoning_ && !stdout_is_terminal()) writer_.write("[reasoning]\n");
          reasoning_ = true;
          writer_.write(e.text, true);
          break;
        case CompletionEvent::Kind::content:
          leave_reasoning();
          writer_.write(e.text);
          break;
        case CompletionEvent::Kind::tool_name:
          leave_reasoning();
          writer_.write(fmt::format("\n[tool call] {} ", e.text));
          break;
        case CompletionEvent::Kind::tool_arguments:
          writer_.write(e.text);
          break;
        case CompletionEvent::Kind::tool_end:
          break;
      }
    }
  }
  void end(const char* note = "") {
    writer_.normal();
    writer_.write(fmt::format("{}\n", note));
  }

 private:
  void leave_reasoning() {
    if (!reasoning_) return;
    reasoning_ = false;
    writer_.normal();
    writer_.write(stdout_is_terminal() ? "\n\n" : "\n[answer]\n");
  }
  AnswerWriter writer_;
  bool reasoning_ = false;
};

class Chat {
 public:
  explicit Chat(const ChatFlags& o)
      : thinking_(o.generation.thinking),
        system_(o.generation.system),
        // Must be constructed before the engine starts its threads (see Interrupts).
        interrupts_(stdin_is_terminal() && stdout_is_terminal()),
        session_(o.checkpoint.empty() ? bundled_model() : o.checkpoint, o.generation, 1, true),
        lines_(
            {.prompt = ">>> ", .edit = true, .always_prompt = false, .history_file = o.history}) {
    clear();
  }

  int run() {
    if (stdin_is_terminal()) notice("Type a message, or /help.");
    while (std::optional<std::string> line = lines_.next()) {
      const size_t first = line->find_first_not_of(" \t");
      if (first == std::string::npos) continue;
      try {
        if ((*line)[first] != '/')
          turn(*line);
        else if (!command(line->substr(first)))
          break;
      } catch (const Error& e) {
        notice(e.what());
        if (session_.engine().snapshot().failed) return 1;
      }
    }
    return 0;
  }

 private:
  // Notices go to standard error, so that they are never taken for an answer.
  static void notice(const std::string& text) { fmt::print(stderr, "{}\n", text); }

  void clear() {
    conversation_ = conversation_of_prompt(system_, "");
    conversation_.pop_back();
  }

  // Runs a command; returns false if the program should end.
  bool command(const std::string& line) {
    const size_t blank = std::min(line.find_first_of(" \t"), line.size());
    const std::string name = line.substr(0, blank);
    const size_t rest = std::min(line.find_first_not_of(" \t", blank), line.size());
    std::string argument = line.substr(rest);
    argument.erase(argument.find_last_not_of(" \t") + 1);

    if (name == "/exit") return false;
    if (name == "/help") {
      fmt::print(stderr, "{}", kHelp);
    } else if (name == "/clear") {
      clear();
      notice("forgotten");
    } else if (name == "/system") {
      require_utf8(argument, "the system message");
      system_ = argument;
      clear();
      notice(system_.empty() ? "no system message" : "system message set");
    } else if (name == "/thinking") {
      set_thinking(argument);
    } else if (name == "/stats") {
      notice(stats_text());
    } else if (name == "/save") {
      save(argument);
    } else if (name == "/load") {
      load(argument);
    } else {
      notice(fmt::format("unknown command {}: /help lists them", replace_invalid_utf8(name)));
    }
    return true;
  }

  void set_thinking(const std::string& argument) {
    if (argument != "on" && argument != "off")
      return notice(fmt::format("/thinking on or off (it is {})", thinking_ ? "on" : "off"));
    thinking_ = argument == "on";
    notice("thinking is " + argument);
  }

  std::string stats_text() const {
    const RequestStats& s = last_;
    return fmt::format(
        "last: prompt {} tokens ({} from the cache), first token after {:.2f} s, generated {} in "
        "{:.2f} s{}\ntotal: {}",
        s.prompt_tokens, s.reused_tokens, s.first_token_seconds, s.generated_tokens,
        s.decode_seconds,
        s.draft_tokens > 0
            ? fmt::format(", {} of {} drafts accepted", s.accepted_tokens, s.draft_tokens)
            : "",
        session_.speed().text());
  }

  void save(const std::string& path) {
    if (path.empty()) return notice("/save FILE: the file's name is missing");
    OrderedJson messages = OrderedJson::array();
    for (const Message& m : conversation_) messages.push_back(json_of(m));
    write_output_file(path, messages.dump(2, ' ', false) + "\n");
    notice(fmt::format("{} messages in {}", conversation_.size(), path));
  }

  void load(const std::string& path) {
    if (path.empty()) return notice("/load FILE: the file's name is missing");
    conversation_ = parse_conversation(read_all(path), path);
    const bool has_system = !conversation_.empty() && conversation_[0].role == Role::system;
    system_ = has_system ? conversation_[0].content : "";
    notice(fmt::format("{} messages from {}", conversation_.size(), path));
  }

  static OrderedJson json_of(const Message& m) {
    OrderedJson json;
    if (m.role == Role::assistant) {
      json = message_to_json(m);
    } else {
      json = {{"role", role_name(m.role)}, {"content", m.content}};
    }
    if (m.role == Role::tool && !m.tool_call_id.empty()) json["tool_call_id"] = m.tool_call_id;
    if (!m.tools.is_null()) {
      // OpenAI wraps each function object.
      json["tools"] = OrderedJson::array();
      for (const OrderedJson& f : m.tools)
        json["tools"].push_back({{"type", "function"}, {"function", f}});
    }
    if (!m.response_format.is_null()) json["response_format"] = m.response_format;
    return json;
  }

  // On any failure the conversation stays as it was before the message.
  void turn(const std::string& line) {
    Conversation next = conversation_;
    next.push_back(conversation_of_prompt("", line).back());
    std::vector<int32_t> ids = session_.prompt_ids(next, thinking_);
    AnswerScreen screen;
    Answer answer = session_.new_answer(
        thinking_, false, [&](const std::string&, const auto& events) { screen.show(events); });
    interrupts_.pressed();  // one from before the question is no answer's
    Result<RequestId> id = session_.submit(std::move(ids), answer);
    if (!id.ok()) return notice(id.failure().message + " (/clear forgets what was said)");
    while (session_.engine().step()) {
      check_output();
      if (interrupts_.pressed()) session_.engine().cancel(id.value());
    }
    last_ = answer.stats();
    if (answer.failed()) {
      screen.end();
      return notice(answer.error());
    }
    const bool stopped = answer.finish() == Finish::cancelled;
    screen.end(stopped ? " [stopped]" : answer.finish() == Finish::length ? " [cut off]" : "");
    const Message& said = answer.message();
    if (stopped && said.content.empty() && said.tool_calls.empty()) return;
    next.push_back(said);
    next.back().role = Role::assistant;
    conversation_ = std::move(next);
  }

  bool thinking_;
  std::string system_;
  Interrupts interrupts_;
  ModelSession session_;
  LineReader lines_;
  Conversation conversation_;
  RequestStats last_;
};

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<ChatFlags>();
  o->generation.max_new_tokens = 1024;
  CLI::App* c = app.add_subcommand("chat", "talk with a model (the bundled one by default)");
  c->add_option("dir", o->checkpoint, "checkpoint folder");
  c->add_option("--history", o->history, "keep typed lines in this file (default: in memory)");
  o->generation.add_to(*c);
  on_run(*c, [o] {
    require_utf8(o->generation.system, "--system");
    return Chat(*o).run();
  });
}

}  // namespace fathom::cli
