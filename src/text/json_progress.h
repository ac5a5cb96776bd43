// A JSON text read as it arrives, byte by byte: where it stops being JSON, and how it can be closed
// where it stands. For the arguments of tool calls, which clients get while they are written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_limits.h"

namespace fathom {

// Thread-compatible. That the bytes are UTF-8 is not checked.
class JsonProgress {
 public:
  // `outer_depth`: levels of brackets around this text; they count towards kMaxJsonDepth.
  explicit JsonProgress(int outer_depth = 0) : outer_depth_(outer_depth) {}

  // False if the text cannot go on with `c` and be JSON within text/json_limits.h. Not to be called
  // again then.
  bool push(char c);

  // One whole value has been read; only a number may still grow, and white space may follow.
  bool complete() const;
  bool in_string() const { return state_ == State::string || state_ == State::key; }

  // The text so far, closed: the JSON that begins with it, without what is only begun and means
  // nothing yet (half a key, half an escape, a number that may go on). `text` is what was pushed.
  // Nothing if no bracket has been opened.
  std::optional<std::string> closed(std::string_view text) const;

 private:
  enum class State : uint8_t {
    value,       // a value must come
    first_item,  // behind "[": a value or "]"
    first_key,   // behind "{": a key or "}"
    next_key,    // behind "," in an object
    colon,       // behind a key
    after,       // behind a value
    string,      // inside of a string value
    key,         // inside of a key
    literal,     // inside of true, false or null
    // Inside of a number, behind ...
    minus,
    zero,
    digits,
    point,
    fraction,
    exponent,
    exponent_sign,
    exponent_digits,
  };
  struct Level {
    bool object = false;
    int64_t members = 0;
  };

  bool push_value(char c);
  bool push_string(char c);
  bool push_escape(char c);
  bool push_literal(char c);
  bool push_after(char c);
  bool open(bool object);
  bool close(bool object);
  std::optional<State> number_step(char c) const;
  bool number_may_end() const;
  bool number_fits() const;
  void end_value();

  int outer_depth_;
  State state_ = State::value;
  std::vector<Level> levels_;
  int64_t values_ = 1;
  std::string number_;  // the one being read
  std::string_view literal_left_;
  // The escape being read, with its backslash. That of a high surrogate ends with its other half.
  std::string escape_;
  size_t read_ = 0;              // bytes
  size_t keep_ = 0;              // bytes up to which closed() keeps the text
  bool keep_in_string_ = false;  // ... which is inside of a string value there
};

// The JSON object that begins with `text`, the beginning of one: `text` itself where that is whole,
// {} where nothing of it has come. Nothing if no JSON object begins so.
std::optional<std::string> closed_json_object(std::string_view text);

}  // namespace fathom
