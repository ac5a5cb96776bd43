// ResponseWriter writes the answer of /v1/responses: generation events go in, output items and (for
// a stream) server-sent events come out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "server/api/tool_request.h"
#include "server/generation.h"
#include "text/python_json.h"

namespace fathom::server {

// Makes ids of items from a prefix ("msg_"); tests use a counter.
using IdMaker = std::function<std::string(std::string_view prefix)>;

// Thread-compatible. Call begin(), then feed() for every event up to the one that ends the choice.
class ResponseWriter {
 public:
  // `response` is the response object as the request makes it: id, model, echoed fields, no output
  // yet. Without `stream` the returned texts are empty. `names` has the client's name of a called
  // tool.
  ResponseWriter(OrderedJson response, ToolNames names, bool stream, IdMaker new_id);

  std::string begin();
  std::string feed(const GenerationEvent& event);
  // Instead of feed(): ends a response that fails before anything is generated.
  std::string refuse(std::string_view code, const std::string& message);

  // The response object so far; final after the last event.
  const OrderedJson& response() const { return response_; }

 private:
  enum class Open { none, reasoning, message, call };

  void piece(const CompletionEvent& piece);
  void open_text(Open kind);
  void text_delta(const std::string& text);
  void open_call(const CompletionEvent& call);
  void arguments_delta(const std::string& text);
  void close(std::string_view status);
  void close_text();
  void close_call();
  void finish(const GenerationEvent& event);

  // Appends an event; `data` gets its type and number.
  void emit(std::string_view type, const OrderedJson& data);
  // Returns {item_id, output_index} of the open item, and content_index if it has parts.
  OrderedJson place() const;
  OrderedJson& item() { return response_["output"].back(); }

  OrderedJson response_;
  ToolNames names_;
  bool stream_;
  IdMaker new_id_;
  Open open_ = Open::none;
  std::string text_;  // of the open item: its text or its arguments
  int64_t sequence_ = 0;
  std::string out_;
};

// The usage object of a response.
OrderedJson response_usage(const RequestStats& stats, int64_t reasoning_tokens);

}  // namespace fathom::server
