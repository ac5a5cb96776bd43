// JsonProgress reads a JSON text byte by byte as it arrives. It notices where the text stops being
// JSON, and can close an unfinished text. It reads the arguments of tool calls, which clients get
// while they are written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_limits.h"

namespace fathom {

// Thread-compatible. Does not check that the bytes are UTF-8.
class JsonProgress {
 public:
  // `outer_depth`: levels of brackets around this text; they count towards kMaxJsonDepth.
  explicit JsonProgress(int outer_depth = 0) : outer_depth_(outer_depth) {}

  // Reads the next byte. Returns false if the text with `c` cannot begin a JSON text within the
  // limits of text/json_limits.h; then do not call it again.
  bool push(char c);

  // Whether one whole value has been read. White space may follow; a number may still get digits.
  bool complete() const;
  bool in_string() const { return state_ == State::string || state_ == State::key; }

  // Returns the text so far as valid JSON: open strings and brackets are closed, and an unfinished
  // key, escape or number is left out. `text` is all that was pushed. Returns nothing if no bracket
  // has been opened.
  std::optional<std::string> closed(std::string_view text) const;

 private:
  enum class State : uint8_t {
    value,       // a value must come
    first_item,  // after "[": a value or "]"
    first_key,   // after "{": a key or "}"
    next_key,    // after "," in an object
    colon,       // after a key
    after,       // after a value
    string,      // inside of a string value
    key,         // inside of a key
    literal,     // inside of true, false or null
    // Inside of a number, after ...
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
  // The escape being read, with its backslash. A surrogate pair counts as one escape.
  std::string escape_;
  size_t read_ = 0;              // bytes
  size_t keep_ = 0;              // bytes up to which closed() keeps the text
  bool keep_in_string_ = false;  // whether that is inside a string value
};

// Closes the beginning of a JSON object (see JsonProgress::closed). Returns `text` itself if the
// object is complete, {} if `text` is empty, and nothing if no JSON object begins with `text`.
std::optional<std::string> closed_json_object(std::string_view text);

}  // namespace fathom
