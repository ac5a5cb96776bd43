// The person at the other end: lines read with editing and history where there is a terminal,
// Ctrl-C as a question instead of the end, text dimmed where that is possible. Without a terminal
// all of it is plain bytes: no escape codes, no prompts.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace fathom::cli {

bool stdin_is_terminal();
bool stdout_is_terminal();

struct LineReaderOptions {
  std::string prompt;          // shown in front of every line
  bool edit = false;           // editing and history, where there is a terminal
  bool always_prompt = false;  // without a terminal as well
  std::string history_file;    // with edit: earlier lines are read from it, and kept in it
};

// Reads standard input line by line.
class LineReader {
 public:
  explicit LineReader(LineReaderOptions options);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line, without its end; nothing when there are no more. Ctrl-C drops the line that is
  // being edited and gives an empty one.
  std::optional<std::string> next();

 private:
  struct Editor;
  LineReaderOptions options_;
  std::unique_ptr<Editor> editor_;  // null: plain reading
};

// While it lives, Ctrl-C is only noted. Make it before any thread starts: threads inherit what they
// leave alone, and a signal goes to any thread that does not.
class Interrupts {
 public:
  explicit Interrupts(bool active);
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Whether Ctrl-C was pressed since the last call.
  bool pressed();

 private:
  bool active_;
};

// Writes to standard output at once; text marked `dim` is set apart on a terminal.
class AnswerWriter {
 public:
  AnswerWriter() : styled_(stdout_is_terminal()) {}
  ~AnswerWriter() { normal(); }
  void write(const std::string& text, bool dim = false);
  void normal();

 private:
  bool styled_, dim_ = false;
};

// Replaces the file as a whole or not at all; writes to a device or pipe. Throws Error when it
// cannot.
void write_atomically(const std::string& path, const std::string& content);

}  // namespace fathom::cli
