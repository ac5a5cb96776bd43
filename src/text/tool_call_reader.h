// Reads the inside of one tool call while it is written. What the arguments are made of comes out
// at once; only what may be part of a tag or a marker is waited for.
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
// v3.2: {name}">, parameter tags, and the tag that closes the call. The parameters are made into
// one JSON object in their order, in Python's spelling; values that are not strings keep their
// text, so that numbers of any size keep their digits. A parameter that comes twice is a member
// that comes twice: readers of JSON take the last.
class ToolCallReader {
 public:
  enum class Status {
    reading,     // more text has to come
    complete,    // the call is over and its arguments are a JSON object
    unreadable,  // this is no call, from here on: a tag or JSON that is wrong, or beyond a limit
  };
  static constexpr size_t kMaxNameBytes = 256;

  explicit ToolCallReader(Encoding encoding) : v31_(encoding == Encoding::v31) {}

  // Reads on from the front of `marked`. Returns how many bytes have been taken; what is left has
  // to be given again, with more behind it.
  size_t read(std::string_view marked);

  Status status() const { return status_; }
  // The name is whole, and what follows it has begun as arguments do.
  bool announced() const { return announced_; }
  const std::string& name() const { return name_; }
  // What has come of the arguments since the last call. All pieces together are JSON once the call
  // is complete, and until then the beginning of JSON.
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

  // Each takes what it can off the front of `text`. False: that is all for now.
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
  std::string space_;         // v3.2: behind what has been read of a value; dropped at its end
  bool value_begun_ = false;  // v3.2: more than white space has come of a value
  int64_t members_ = 0;       // v3.2
};

}  // namespace fathom
