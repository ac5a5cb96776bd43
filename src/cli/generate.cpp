// fathom generate: text from prompts, with the flags and habits of DeepSeek's own generate.py.
#include <cstdio>
#include <deque>
#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "cli/model_session.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "text/chat.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateFlags {
  std::string checkpoint, input_file, messages;
  bool interactive = false, raw = false, json = false;
  int batch = 8;
  GenerationOptions generation;
};

// Broken UTF-8 of a prompt that is only quoted must not break the JSON.
void print_json(const Json& json) {
  write_out(json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void print_text(const std::string& text) { write_out(text); }

// Prompts of a file: blocks of lines with blank lines between them.
std::vector<std::string> split_prompts(const std::string& text) {
  std::vector<std::string> prompts;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.pop_back();
    bool blank = line.find_first_not_of(" \t") == std::string::npos;
    if (blank) {
      inside = false;
    } else if (inside) {
      prompts.back() += '\n' + line;
    } else {
      prompts.push_back(line);
      inside = true;
    }
  }
  return prompts;
}

// One prompt of a batch.
struct Job {
  std::string prompt;  // as it was written; empty for a messages file
  std::unique_ptr<Answer> answer;
  std::string error;   // why it could not be started
  size_t printed = 0;  // bytes of the answer's text on the screen
  bool begun = false;  // its heading is on the screen

  bool over() const { return !error.empty() || answer->ended(); }
  bool failed() const { return !error.empty() || answer->failed(); }
  const std::string& reason() const { return error.empty() ? answer->error() : error; }
};

// Prints answers in the order of their prompts. The first unfinished one is printed as it arrives;
// later ones wait for their turn.
class BatchPrinter {
 public:
  BatchPrinter(std::deque<Job>& jobs, bool json) : jobs_(jobs), json_(json) {}

  void update() {
    for (; at_ < jobs_.size(); ++at_) {
      Job& job = jobs_[at_];
      if (!json_)
        print_so_far(job);
      else if (job.over())
        print_object(job);
      if (!job.over()) return;
    }
  }

 private:
  void print_so_far(Job& job) {
    if (!job.begun && !job.prompt.empty())
      print_text(fmt::format("Prompt: {}\nCompletion: ", job.prompt));
    job.begun = true;
    if (job.error.empty()) {
      print_text(job.answer->text().substr(job.printed));
      job.printed = job.answer->text().size();
    }
    if (!job.over()) return;
    print_text(job.prompt.empty() ? "\n" : "\n\n");
    if (job.failed()) fmt::print(stderr, "fathom: prompt {}: {}\n", at_ + 1, job.reason());
  }

  void print_object(const Job& job) {
    Json json;
    json["index"] = at_;
    if (!job.prompt.empty()) json["prompt"] = job.prompt;
    if (!job.error.empty())
      json["error"]["message"] = job.error;
    else
      json.update(job.answer->to_json());
    print_json(json);
    if (job.failed()) fmt::print(stderr, "fathom: prompt {}: {}\n", at_ + 1, job.reason());
  }

  std::deque<Job>& jobs_;
  const bool json_;
  size_t at_ = 0;
};

void print_speed(ModelSession& session) { fmt::print(stderr, "{}\n", session.speed().text()); }

// Runs all prompts as one batch. A prompt that cannot be run does not keep the others from it.
int run_batch(ModelSession& session, std::deque<Job>& jobs, const GenerateFlags& o,
              const std::function<std::vector<int32_t>(const Job&)>& ids_of) {
  for (Job& job : jobs) {
    job.answer = std::make_unique<Answer>(session.new_answer(o.generation.thinking, o.raw));
    try {
      Result<RequestId> id = session.submit(ids_of(job), *job.answer);
      if (!id.ok()) job.error = id.failure().message;
    } catch (const Error& e) {
      job.error = e.what();
    }
  }
  BatchPrinter printer(jobs, o.json);
  printer.update();
  while (session.engine().step()) {
    printer.update();
    check_output();
  }
  print_speed(session);
  for (const Job& job : jobs)
    if (job.failed()) return 1;
  return 0;
}

int run_file(const GenerateFlags& o) {
  std::deque<Job> jobs;
  for (std::string& prompt : split_prompts(read_all(o.input_file)))
    jobs.emplace_back().prompt = std::move(prompt);
  if (jobs.empty())
    fail("{}: no prompts: expected text, with blank lines between prompts", o.input_file);
  const int at_once = static_cast<int>(std::min<size_t>(jobs.size(), static_cast<size_t>(o.batch)));
  ModelSession session(o.checkpoint, o.generation, at_once, false);
  return run_batch(session, jobs, o, [&](const Job& job) {
    return o.raw ? session.raw_ids(job.prompt)
                 : session.prompt_ids(conversation_of_prompt(o.generation.system, job.prompt),
                                      o.generation.thinking);
  });
}

int run_messages(const GenerateFlags& o) {
  Conversation conversation = parse_conversation(read_all(o.messages), o.messages);
  if (!o.generation.system.empty()) {
    Message system;
    system.role = Role::system;
    system.content = o.generation.system;
    conversation.insert(conversation.begin(), std::move(system));
  }
  ModelSession session(o.checkpoint, o.generation, 1, false);
  std::deque<Job> jobs(1);
  return run_batch(session, jobs, o, [&](const Job&) {
    return session.prompt_ids(conversation, o.generation.thinking);
  });
}

// A conversation, line by line: /exit ends it, /clear forgets it.
class Interactive {
 public:
  explicit Interactive(const GenerateFlags& o)
      : o_(o), session_(o.checkpoint, o.generation, 1, true) {
    clear();
  }

  int run() {
    LineReader lines({.prompt = o_.json ? "" : ">>> ",
                      .edit = false,
                      .always_prompt = !o_.json,
                      .history_file = {}});
    while (std::optional<std::string> line = lines.next()) {
      if (*line == "/exit") break;
      if (*line == "/clear") {
        clear();
        continue;
      }
      try {
        turn(*line);
      } catch (const Error& e) {
        complain(e.what());
        if (session_.engine().snapshot().failed) return 1;
      }
    }
    print_speed(session_);
    return 0;
  }

 private:
  void clear() {
    conversation_ = conversation_of_prompt(o_.generation.system, "");
    conversation_.pop_back();
  }

  void complain(const std::string& why) {
    fmt::print(stderr, "fathom: {}\n", why);
    if (!o_.json) return;
    Json json;
    json["error"]["message"] = why;
    print_json(json);
  }

  void turn(const std::string& line) {
    if (line.find_first_not_of(" \t") == std::string::npos)
      return complain("the prompt is empty: type something, or /exit");
    Conversation next = conversation_;
    next.push_back(conversation_of_prompt("", line).back());
    std::vector<int32_t> ids =
        o_.raw ? session_.raw_ids(line) : session_.prompt_ids(next, o_.generation.thinking);
    Answer answer = session_.new_answer(
        o_.generation.thinking, o_.raw,
        o_.json ? Answer::Show() : [](const std::string& text, const auto&) { print_text(text); });
    Result<RequestId> id = session_.submit(std::move(ids), answer);
    if (!id.ok()) return complain(id.failure().message + " (/clear forgets what was said)");
    while (session_.engine().step()) check_output();
    if (!o_.json) print_text("\n");
    if (answer.failed()) return complain(answer.error());
    if (o_.json) print_json(answer.to_json());
    if (o_.raw) return;
    next.push_back(answer.message());
    next.back().role = Role::assistant;
    conversation_ = std::move(next);
  }

  const GenerateFlags& o_;
  ModelSession session_;
  Conversation conversation_;
};

int run(const GenerateFlags& o) {
  require_utf8(o.generation.system, "--system");
  if (o.interactive) return Interactive(o).run();
  return o.messages.empty() ? run_file(o) : run_messages(o);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<GenerateFlags>();
  CLI::App* c = app.add_subcommand("generate", "answer prompts: typed in, or from a file");
  c->add_option("--ckpt-path", o->checkpoint, "checkpoint folder, Hugging Face or converted")
      ->required();
  auto* input = c->add_option_group("input", "where prompts come from (one of)");
  input->add_flag("--interactive", o->interactive, "from the keyboard: /exit ends, /clear forgets");
  input->add_option("--input-file", o->input_file,
                    "file with blank lines between prompts (- for standard input), as one batch");
  auto* messages = input->add_option("--messages", o->messages,
                                     "JSON file of OpenAI-style messages, perhaps with tools");
  input->require_option(1);
  o->generation.add_to(*c);
  c->add_flag("--raw", o->raw, "the prompt as it is, without a chat template")
      ->excludes(messages)
      ->excludes(c->get_option("--system"))
      ->excludes(c->get_option("--thinking"))
      ->excludes(c->get_option("--encoding"));
  c->add_flag("--json", o->json, "one JSON object a prompt: message, token ids, usage, timings");
  c->add_option("--batch", o->batch, "prompts of a file computed at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  on_run(*c, [o] { return run(*o); });
}

}  // namespace fathom::cli
