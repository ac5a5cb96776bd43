// Input and output at a terminal: lines with editing and history, Ctrl-C as an event, dimmed text.
// Without a terminal all of it is plain bytes, without escape codes and prompts.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace fathom::cli {

bool stdin_is_terminal();
bool stdout_is_terminal();

struct LineReaderOptions {
  std::string prompt;          // shown in front of every line
  bool edit = false;           // editing and history, if there is a terminal
  bool always_prompt = false;  // show the prompt without a terminal, too
  std::string history_file;    // with edit: the history is read from and saved to it
};

// Reads standard input line by line.
class LineReader {
 public:
  explicit LineReader(LineReaderOptions options);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Returns the next line, without its line end; nothing at the end of input. Ctrl-C drops the line
  // that is being edited and returns an empty one.
  std::optional<std::string> next();

 private:
  struct Editor;
  LineReaderOptions options_;
  std::unique_ptr<Editor> editor_;  // null: plain reading
};

// While it exists, Ctrl-C does not end the program; pressed() reports it. Make it before any thread
// starts: threads inherit the set of blocked signals, and a signal may go to any thread that does
// not block it.
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

// Writes to standard output without delay; on a terminal `dim` text is dimmed.
class AnswerWriter {
 public:
  AnswerWriter() : styled_(stdout_is_terminal()) {}
  ~AnswerWriter() { normal(); }
  void write(const std::string& text, bool dim = false);
  void normal();

 private:
  bool styled_, dim_ = false;
};

}  // namespace fathom::cli
