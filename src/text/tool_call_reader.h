// ToolCallReader reads the inside of one tool call while it is written. It hands out argument text
// at once; only bytes that may be part of a tag or a marker are held back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "text/chat.h"
#include "text/json_progress.h"

namespace fathom {

// Thread-compatible. The text is marked text (text/marked_text.h).
//
// v3.1: {name}, the separator, {arguments as JSON}, the marker of the call's end.
// v3.2: {name}">, parameter tags, and the tag that closes the call. The parameters become one JSON
// object, in their order and in Python's spelling. Values that are not strings keep their text, so
// numbers of any size keep their digits. A parameter that is written twice becomes two members of
// one name; JSON readers take the last.
class ToolCallReader {
 public:
  enum class Status {
    reading,     // more text has to come
    complete,    // the call is over and its arguments are a JSON object
    unreadable,  // a tag or the JSON is wrong, or beyond a limit
  };
  static constexpr size_t kMaxNameBytes = 256;

  explicit ToolCallReader(Encoding encoding) : v31_(encoding == Encoding::v31) {}

  // Reads from the front of `marked`. Returns how many bytes it has used; the caller gives the rest
  // again, with more text behind it.
  size_t read(std::string_view marked);

  Status status() const { return status_; }
  // Whether the name is complete and the text after it begins like arguments.
  bool announced() const { return announced_; }
  const std::string& name() const { return name_; }
  // Returns the argument text that was read since the last call of this function. All pieces
  // together are JSON once the tool call is complete, and the beginning of JSON until then.
  std::string take_arguments() { return std::exchange(arguments_, {}); }

 private:
  enum class Part : uint8_t {
    name,
    lead,         // v3.1: between the separator and the arguments' first key
    arguments,    // v3.1
    parameters,   // v3.2: in front of a parameter's tag or of the call's end
    text_value,   // v3.2: inside of a parameter that is a string
    other_value,  // v3.2: inside of any other
  };

  // Each removes what it can read from the front of `text`. Returns false when it can read no more
  // for now.
  bool read_part(std::string_view& text);
  bool read_name_v31(std::string_view& text);
  bool read_lead(std::string_view& text);
  bool read_arguments(std::string_view& text);
  bool read_name_v32(std::string_view& text);
  bool read_parameters(std::string_view& text);
  bool open_parameter(std::string_view& text);
  bool read_value(std::string_view& text);
  size_t add_to_value(std::string_view text);
  bool give_up();

  const bool v31_;
  Part part_ = Part::name;
  Status status_ = Status::reading;
  bool announced_ = false;
  std::string name_, arguments_;
  JsonProgress json_;         // of the arguments (v3.1) or of one parameter's value (v3.2)
  std::string space_;         // v3.2: white space after a value's text; dropped at its end
  bool value_begun_ = false;  // v3.2: more than white space of the value has been read
  int64_t members_ = 0;       // v3.2
};

}  // namespace fathom
