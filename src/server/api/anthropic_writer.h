// MessageWriter writes the answer of /v1/messages: generation events go in, content blocks and (for
// a stream) server-sent events come out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/api/responses_writer.h"
#include "server/generation.h"
#include "text/python_json.h"

namespace fathom::server {

struct MessageHead {
  std::string id;  // "msg_..."
  std::string model;
  int64_t prompt_tokens = 0;
  bool stream = false;
  bool omit_thinking = false;  // thinking is answered with empty blocks
};

// Thread-compatible. Call begin(), then feed() for every event up to the one that ends the choice.
class MessageWriter {
 public:
  MessageWriter(MessageHead head, IdMaker new_id);

  std::string begin();  // message_start and a ping
  std::string feed(const GenerationEvent& event);

  // The message object so far; final after the last event.
  const OrderedJson& message() const { return message_; }

 private:
  enum class Open { none, thinking, text, call };

  void piece(const CompletionEvent& piece);
  void open(Open kind, OrderedJson block);
  void delta(const char* type, const char* key, const std::string& text);
  // `cut`: a limit has ended the answer inside of the open block.
  void close(bool cut);
  void finish(const GenerationEvent& event);
  void emit(std::string_view type, const OrderedJson& data);
  size_t index() const { return message_["content"].size(); }

  MessageHead head_;
  IdMaker new_id_;
  OrderedJson message_;
  Open open_ = Open::none;
  OrderedJson block_;  // the open one
  std::string text_;   // its text or arguments
  std::string out_;
};

// {"type": "error", "error": {...}} as the event that ends a stream.
std::string message_error_event(const Failure& failure);

}  // namespace fathom::server
