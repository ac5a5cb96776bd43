#include "server/api/responses_writer.h"

#include <utility>

#include "base/check.h"
#include "server/http/sse.h"

namespace fathom::server {
namespace {

OrderedJson part_of(bool reasoning, const std::string& text) {
  if (reasoning) return {{"type", "reasoning_text"}, {"text", text}};
  return {{"type", "output_text"},
          {"annotations", OrderedJson::array()},
          {"logprobs", OrderedJson::array()},
          {"text", text}};
}

}  // namespace

OrderedJson response_usage(const RequestStats& stats, int64_t reasoning_tokens) {
  return {{"input_tokens", stats.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", stats.reused_tokens}}},
          {"output_tokens", stats.generated_tokens},
          {"output_tokens_details", {{"reasoning_tokens", reasoning_tokens}}},
          {"total_tokens", stats.prompt_tokens + stats.generated_tokens}};
}

ResponseWriter::ResponseWriter(OrderedJson response, ToolNames names, bool stream, IdMaker new_id)
    : response_(std::move(response)),
      names_(std::move(names)),
      stream_(stream),
      new_id_(std::move(new_id)) {
  response_["output"] = OrderedJson::array();
  response_["status"] = "in_progress";
}

std::string ResponseWriter::begin() {
  emit("response.created", {{"response", response_}});
  emit("response.in_progress", {{"response", response_}});
  return std::exchange(out_, {});
}

std::string ResponseWriter::feed(const GenerationEvent& event) {
  for (const CompletionEvent& p : event.pieces) piece(p);
  if (event.ended) finish(event);
  return std::exchange(out_, {});
}

std::string ResponseWriter::refuse(std::string_view code, const std::string& message) {
  response_["status"] = "failed";
  response_["error"] = {{"code", code}, {"message", message}};
  emit("response.failed", {{"response", response_}});
  return std::exchange(out_, {});
}

void ResponseWriter::piece(const CompletionEvent& piece) {
  switch (piece.kind) {
    case CompletionEvent::Kind::reasoning:
    case CompletionEvent::Kind::content: {
      const bool reasoning = piece.kind == CompletionEvent::Kind::reasoning;
      const Open kind = reasoning ? Open::reasoning : Open::message;
      if (open_ != kind) {
        close("completed");
        open_text(kind);
      }
      text_delta(piece.text);
      break;
    }
    case CompletionEvent::Kind::tool_name:
      close("completed");
      open_call(piece);
      break;
    case CompletionEvent::Kind::tool_arguments:
      FATHOM_CHECK(open_ == Open::call, "arguments of call {} without its name", piece.call);
      arguments_delta(piece.text);
      break;
    case CompletionEvent::Kind::tool_end:
      break;
  }
}

void ResponseWriter::open_text(Open kind) {
  open_ = kind;
  const bool reasoning = kind == Open::reasoning;
  OrderedJson item;
  item["id"] = new_id_(reasoning ? "rs_" : "msg_");
  item["type"] = reasoning ? "reasoning" : "message";
  item["status"] = "in_progress";
  if (reasoning) {
    item["summary"] = OrderedJson::array();
    item["encrypted_content"] = nullptr;
  } else {
    item["role"] = "assistant";
  }
  item["content"] = OrderedJson::array();
  response_["output"].push_back(item);
  emit("response.output_item.added",
       {{"output_index", response_["output"].size() - 1}, {"item", item}});
  OrderedJson added = place();
  added["part"] = part_of(reasoning, "");
  emit("response.content_part.added", added);
}

void ResponseWriter::text_delta(const std::string& text) {
  text_ += text;
  if (!stream_) return;
  OrderedJson delta = place();
  delta["delta"] = text;
  if (open_ == Open::message) delta["logprobs"] = OrderedJson::array();
  emit(open_ == Open::reasoning ? "response.reasoning_text.delta" : "response.output_text.delta",
       delta);
}

void ResponseWriter::open_call(const CompletionEvent& call) {
  open_ = Open::call;
  OrderedJson item;
  item["id"] = new_id_("fc_");
  item["type"] = "function_call";
  item["status"] = "in_progress";
  item["call_id"] = tool_call_id(response_["id"].get_ref<const std::string&>(), 0, call.call);
  const ToolName tool = names_.of(call.text);
  item["name"] = tool.name;
  if (!tool.name_space.empty()) item["namespace"] = tool.name_space;
  item["arguments"] = "";
  response_["output"].push_back(item);
  emit("response.output_item.added",
       {{"output_index", response_["output"].size() - 1}, {"item", item}});
}

void ResponseWriter::arguments_delta(const std::string& text) {
  text_ += text;
  if (!stream_) return;
  OrderedJson delta = place();
  delta["delta"] = text;
  emit("response.function_call_arguments.delta", delta);
}

void ResponseWriter::close(std::string_view status) {
  if (open_ == Open::none) return;
  if (open_ == Open::call) {
    close_call();
  } else {
    close_text();
  }
  item()["status"] = status;
  emit("response.output_item.done",
       {{"output_index", response_["output"].size() - 1}, {"item", item()}});
  open_ = Open::none;
  text_.clear();
}

void ResponseWriter::close_text() {
  const bool reasoning = open_ == Open::reasoning;
  const OrderedJson part = part_of(reasoning, text_);
  OrderedJson done = place();
  done["text"] = text_;
  if (!reasoning) done["logprobs"] = OrderedJson::array();
  emit(reasoning ? "response.reasoning_text.done" : "response.output_text.done", done);
  OrderedJson part_done = place();
  part_done["part"] = part;
  emit("response.content_part.done", part_done);
  item()["content"].push_back(part);
}

void ResponseWriter::close_call() {
  OrderedJson done = place();
  done["name"] = item()["name"];
  done["arguments"] = text_;
  emit("response.function_call_arguments.done", done);
  item()["arguments"] = text_;
}

void ResponseWriter::finish(const GenerationEvent& event) {
  const bool failed = event.failure.has_value();
  const bool cut = event.finish_reason == "length";
  close(failed || cut ? "incomplete" : "completed");
  // An answer without a word still is a message: clients look for one.
  if (!failed && response_["output"].empty()) {
    open_text(Open::message);
    close(cut ? "incomplete" : "completed");
  }
  const std::string status = failed ? "failed" : cut ? "incomplete" : "completed";
  response_["status"] = status;
  if (cut) response_["incomplete_details"] = {{"reason", "max_output_tokens"}};
  if (failed) {
    response_["error"] = {{"code", "server_error"}, {"message", event.failure->message}};
  }
  response_["usage"] = response_usage(event.stats, event.reasoning_tokens);
  emit("response." + status, {{"response", response_}});
}

void ResponseWriter::emit(std::string_view type, const OrderedJson& data) {
  const int64_t number = sequence_++;
  if (!stream_) return;
  OrderedJson event = {{"type", type}, {"sequence_number", number}};
  event.update(data);
  out_ += sse_event(type, event);
}

OrderedJson ResponseWriter::place() const {
  const OrderedJson& output = response_["output"];
  OrderedJson at = {{"item_id", output.back()["id"]}, {"output_index", output.size() - 1}};
  if (open_ != Open::call) at["content_index"] = 0;
  return at;
}

}  // namespace fathom::server
