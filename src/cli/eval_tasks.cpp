#include "cli/eval_tasks.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "cli/command.h"
#include "cli/options.h"
#include "eval/answer.h"
#include "eval/choice.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kUsualContext = 4096;
// Windows that a text of a parity run has at least, so that there are some to pair.
constexpr int64_t kParityWindows = 8;

// "models/small/eval/prose.txt" is the task "prose".
std::string name_of_file(const std::string& path) {
  const std::string stem = fs::path(path).stem().string();
  return stem.empty() ? path : stem;
}

template <class T>
CLI::Option* setting(CLI::App& command, const char* flag, std::optional<T>& value,
                     const std::string& text) {
  return command.add_option(flag, value, text);
}

void switch_on(CLI::App& command, const char* flag, std::optional<bool>& value,
               const std::string& text) {
  command.add_flag_callback(
      flag, [&value] { value = true; }, text);
}

void add_choice_flags(CLI::App& c, eval::ItemSettings& s) {
  setting(c, "--style", s.style,
          "letters: choices listed as A., B., ...; text: each choice as the question's "
          "continuation (default: letters)")
      ->check(CLI::IsMember({"letters", "text"}));
  setting(c, "--score", s.score,
          "logprob, normalised (a byte of the choice), or generate (default: logprob)")
      ->check(CLI::IsMember({"logprob", "normalised", "generate"}));
  switch_on(c, "--shuffle", s.shuffle, "the choices of an item, by seed and line");
}

void add_answer_flags(CLI::App& c, eval::ItemSettings& s) {
  setting(c, "--match", s.match, "exact, regex or number (default: exact)")
      ->check(CLI::IsMember({"exact", "regex", "number"}));
  setting(c, "--marker", s.marker,
          "with --match number: what stands in front of it (default: the answer's last number)");
  setting(c, "--stop", s.stop, "the answer ends in front of this text");
  setting(c, "--template", s.template_, "text around a prompt, which stands for {prompt}");
  setting(c, "--samples", s.samples, "answers an item; above 1 pass@k is estimated")
      ->check(CLI::Range(1, 1000));
  setting(c, "--temperature", s.temperature, "(default: 0; with several samples 0.6)")
      ->check(number_from(0.0, 100.0));
  setting(c, "--top-p", s.top_p, "(default: 1; with several samples 0.95)")
      ->check(number_from(1e-9, 1.0));
}

}  // namespace

void PerplexityFlags::add_to(CLI::App& c) {
  c.add_option("--context", options.context,
               "tokens of a window (default: 4096, or what the model has)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40));
  c.add_option("--stride", options.stride,
               "tokens from one window to the next, which scores as many (default: windows side "
               "by side)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  c.add_option("--windows", options.windows, "no more than the first so many windows")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
}

std::unique_ptr<eval::Task> perplexity_task(const std::string& name,
                                            const std::vector<std::string>& paths,
                                            const PerplexityFlags& flags,
                                            const TaskSource& source) {
  const int64_t most = source.max_context() - 1;  // the engine wants room for one token behind
  eval::PerplexityOptions p = flags.options;
  std::vector<eval::TextFile> files;
  int64_t tokens = 0;
  for (const std::string& path : paths) {
    files.push_back({path, read_all(path)});
    if (p.context == 0 && flags.min_windows > 0) {
      require_utf8(files.back().text, path);
      tokens += static_cast<int64_t>(source.tokenizer.encode_plain(files.back().text).size());
    }
  }
  if (p.context == 0) {
    p.context = std::min(kUsualContext, most);
    if (flags.min_windows > 0)
      p.context = std::clamp<int64_t>(tokens / flags.min_windows, 2, p.context);
  }
  if (p.context > most)
    throw UsageError(
        fmt::format("--context {}: windows of 2 to {} tokens are possible with this "
                    "model",
                    p.context, most));
  return std::make_unique<eval::Perplexity>(name, source.tokenizer, files, p);
}

void NeedleFlags::add_to(CLI::App& c) {
  c.add_option("--lengths", options.lengths,
               "tokens of the prompts, e.g. 1024,4096 (default: from 512 on, up to half of the "
               "model's context)")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 40));
  c.add_option("--depths", options.depths, "where the fact stands, 0 (first) to 1 (last)")
      ->delimiter(',')
      ->check(number_from(0.0, 1.0))
      ->capture_default_str();
  c.add_option("--count", options.count, "facts for each length and depth")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  c.add_option("--haystack", text, "text file to plant in (default: generated sentences)")
      ->type_name("FILE");
}

std::unique_ptr<eval::Task> needles_task(const NeedleFlags& flags, uint64_t seed,
                                         const TaskSource& source) {
  eval::NeedleOptions n = flags.options;
  n.seed = seed;
  if (!flags.text.empty()) {
    n.text = read_all(flags.text);
    if (n.text.find_first_not_of(" \t\r\n") == n.text.npos)
      fail("{}: there is no text to plant in", flags.text);
  }
  if (n.lengths.empty())
    for (int64_t length = 512; length <= source.max_context() / 2; length *= flags.brief ? 4 : 2)
      n.lengths.push_back(length);
  if (n.lengths.empty()) n.lengths.push_back(source.max_context() / 2);
  return std::make_unique<eval::Needles>("needles", source.tokenizer, source.encoding, n,
                                         source.max_context());
}

void ItemFlags::add_to(CLI::App& c, const std::string& kind) {
  eval::ItemSettings& s = settings;
  setting(c, "--fields", s.fields,
          "mmlu-pro, gpqa, gsm8k, aime, or question=NAME,choices=NAME+NAME,answer=NAME");
  setting(c, "--shots", s.shots, "items at the file's beginning that are shown as examples")
      ->check(CLI::Range(0, 1000));
  switch_on(c, "--chat", s.chat, "prompts are a user's messages (default: text to continue)");
  switch_on(c, "--thinking", s.thinking, "let the model reason before it answers");
  setting(c, "--max-new-tokens", s.max_new_tokens, "longest answer")->check(CLI::Range(1, 1 << 20));
  if (kind == "choice")
    add_choice_flags(c, s);
  else
    add_answer_flags(c, s);
}

std::unique_ptr<eval::Task> items_task(const std::string& path, const std::string& kind,
                                       const eval::ItemSettings& flags, uint64_t seed,
                                       const TaskSource& source) {
  eval::ItemFile file = eval::read_items(path, read_all(path));
  if (!file.settings.name) file.settings.name = name_of_file(path);
  std::string known = kind;
  if (known.empty()) known = file.settings.kind.value_or("");
  if (known.empty() && file.settings.fields)
    known = eval::fields_of(*file.settings.fields).preset.kind.value_or("");
  if (known.empty()) known = eval::field_of(file.items[0].value, "choices") ? "choice" : "answer";
  if (known != "choice" && known != "answer")
    fail("{}: kind is \"{}\": choice, answer are known", path, known);
  if (known == "choice")
    return std::make_unique<eval::Choice>(source.tokenizer, source.encoding, file, flags, seed,
                                          source.max_context());
  return std::make_unique<eval::AnswerTask>(source.tokenizer, source.encoding, file, flags, seed,
                                            source.max_context());
}

void ParityFlags::add_to(CLI::App& c) {
  c.add_option("--tasks", tasks,
               "files: .txt for perplexity, .jsonl for choices and answers; and the word needles "
               "(default: all files of the checkpoint's folder eval, and needles)")
      ->delimiter(',')
      ->type_name("FILE,...");
  perplexity.add_to(c);
  needles.add_to(c);
}

std::vector<std::string> tasks_of_folder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(folder) / "eval", none))
    if (entry.path().extension() == ".txt" || entry.path().extension() == ".jsonl")
      names.push_back(entry.path().string());
  if (names.empty())
    throw UsageError(fmt::format("--tasks is needed: {} has no tasks of its own", folder));
  std::sort(names.begin(), names.end());
  names.emplace_back("needles");
  return names;
}

Tasks parity_tasks(const ParityFlags& flags, uint64_t seed, const TaskSource& source) {
  PerplexityFlags perplexity = flags.perplexity;
  perplexity.min_windows = kParityWindows;
  Tasks tasks;
  for (const std::string& name : flags.tasks) {
    const std::string extension = fs::path(name).extension().string();
    if (name == "needles")
      tasks.push_back(needles_task(flags.needles, seed, source));
    else if (extension == ".jsonl" || extension == ".json")
      tasks.push_back(items_task(name, "", {}, seed, source));
    else
      tasks.push_back(perplexity_task(name_of_file(name), {name}, perplexity, source));
  }
  return tasks;
}

}  // namespace fathom::cli
