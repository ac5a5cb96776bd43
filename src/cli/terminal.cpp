#include "cli/terminal.h"

#include <histedit.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "base/error.h"
#include "cli/output.h"

namespace fathom::cli {

bool stdin_is_terminal() { return isatty(STDIN_FILENO) == 1; }
bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }

// libedit's state. libedit passes its own handle to callbacks, from which of() finds this object.
struct LineReader::Editor {
  EditLine* edit = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::string prompt, file;
  bool abandoned = false;

  static Editor* of(EditLine* e) {
    void* self = nullptr;
    el_get(e, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self);
  }

  Editor(std::string prompt_text, std::string history_file)
      : prompt(std::move(prompt_text)), file(std::move(history_file)) {
    // Letters beyond ASCII need a locale that knows them; where the user's does not, C.UTF-8 does.
    if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    edit = el_init("fathom", stdin, stdout, stderr);
    history = history_init();
    if (!edit || !history) fail("cannot set up line editing");
    el_set(edit, EL_CLIENTDATA, this);
    el_set(
        edit, EL_PROMPT, +[](EditLine* e) { return of(e)->prompt.data(); });
    el_set(edit, EL_EDITOR, "emacs");
    ::history(history, &event, H_SETSIZE, 1000);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(edit, EL_HIST, ::history, history);
    // Ctrl-C comes as a character while a line is edited: the line is dropped, nothing else.
    el_set(edit, EL_SETTY, "-d", "-isig", nullptr);
    el_set(
        edit, EL_ADDFN, "drop-line", "give up the line", +[](EditLine* e, int) -> unsigned char {
          of(e)->abandoned = true;
          return CC_NEWLINE;
        });
    el_set(edit, EL_BIND, "^C", "drop-line", nullptr);
    el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    if (!file.empty()) ::history(history, &event, H_LOAD, file.c_str());
  }

  ~Editor() {
    if (!file.empty()) ::history(history, &event, H_SAVE, file.c_str());
    history_end(history);
    el_end(edit);
  }
};

LineReader::LineReader(LineReaderOptions options) : options_(std::move(options)) {
  if (options_.edit && stdin_is_terminal() && stdout_is_terminal())
    editor_ = std::make_unique<Editor>(options_.prompt, options_.history_file);
}

LineReader::~LineReader() = default;

std::optional<std::string> LineReader::next() {
  std::string line;
  if (editor_) {
    int n = 0;
    editor_->abandoned = false;
    // Switches the mode before the prompt is shown. Otherwise keys typed at once would reach the
    // terminal in line mode, where Ctrl-D and Ctrl-C have another meaning.
    el_set(editor_->edit, EL_PREP_TERM, 1);
    const char* text = el_gets(editor_->edit, &n);
    if (editor_->abandoned) {
      write_out("\n");
      return line;
    }
    if (!text || n <= 0) return std::nullopt;
    line.assign(text, static_cast<size_t>(n));
    if (line.find_first_not_of(" \t\r\n") != std::string::npos)
      ::history(editor_->history, &editor_->event, H_ENTER, text);
  } else {
    if (options_.always_prompt || stdin_is_terminal()) write_out(options_.prompt);
    int c = EOF;
    while ((c = std::fgetc(stdin)) != EOF) {
      line.push_back(static_cast<char>(c));
      if (c == '\n') break;
    }
    if (std::ferror(stdin)) fail("cannot read standard input: {}", std::strerror(errno));
    if (line.empty()) return std::nullopt;
  }
  if (line.ends_with('\n')) line.pop_back();
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

namespace {
sigset_t interrupt_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}
}  // namespace

Interrupts::Interrupts(bool active) : active_(active) {
  sigset_t set = interrupt_set();
  if (active_) pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Interrupts::~Interrupts() {
  if (!active_) return;
  pressed();  // discards a late Ctrl-C, which must not end the program now
  sigset_t set = interrupt_set();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool Interrupts::pressed() {
  if (!active_) return false;
  sigset_t set = interrupt_set();
  const timespec now{0, 0};
  return sigtimedwait(&set, nullptr, &now) == SIGINT;
}

void AnswerWriter::write(const std::string& text, bool dim) {
  if (styled_ && dim != dim_) write_out(dim ? "\x1b[2m" : "\x1b[0m");
  dim_ = dim;
  write_out(text);
}

void AnswerWriter::normal() {
  if (dim_) write("", false);
}

}  // namespace fathom::cli
