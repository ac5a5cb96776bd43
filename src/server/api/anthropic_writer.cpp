#include "server/api/anthropic_writer.h"

#include <utility>

#include "server/http/sse.h"
#include "server/router.h"
#include "text/json_progress.h"

namespace fathom::server {
namespace {

// What is in the cache is counted apart: the three input counts add up to the prompt.
OrderedJson usage_of(const RequestStats& stats, int64_t thinking_tokens) {
  return {{"input_tokens", stats.prompt_tokens - stats.reused_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", stats.reused_tokens},
          {"output_tokens", stats.generated_tokens},
          {"output_tokens_details", {{"thinking_tokens", thinking_tokens}}}};
}

std::string_view stop_reason_of(const GenerationEvent& event) {
  if (!event.stop_text.empty()) return "stop_sequence";
  if (event.context_full) return "model_context_window_exceeded";
  if (event.finish_reason == "length") return "max_tokens";
  if (event.finish_reason == "tool_calls") return "tool_use";
  return "end_turn";
}

// The input of a call from its arguments. Of a call that was cut, the part that arrived. Arguments
// that became unreadable must not look like a complete call, so their text is wrapped as
// Anthropic's documentation prescribes for invalid JSON.
OrderedJson input_of(const std::string& arguments, bool cut) {
  OrderedJson input = OrderedJson::parse(
      cut ? closed_json_object(arguments).value_or(arguments) : arguments, nullptr, false);
  if (input.is_object()) return input;
  return {{"INVALID_JSON", arguments}};
}

}  // namespace

std::string message_error_event(const Failure& failure) {
  return sse_event("error", OrderedJson::parse(error_body(ErrorShape::anthropic, failure)));
}

MessageWriter::MessageWriter(MessageHead head, IdMaker new_id)
    : head_(std::move(head)), new_id_(std::move(new_id)) {
  RequestStats stats;
  stats.prompt_tokens = head_.prompt_tokens;
  message_ = {{"id", head_.id},
              {"type", "message"},
              {"role", "assistant"},
              {"model", head_.model},
              {"content", OrderedJson::array()},
              {"stop_reason", nullptr},
              {"stop_sequence", nullptr},
              {"usage", usage_of(stats, 0)}};
}

std::string MessageWriter::begin() {
  // What the cache had is known later, and said with the last event.
  emit("message_start", {{"message", message_}});
  emit("ping", OrderedJson::object());
  return std::exchange(out_, {});
}

std::string MessageWriter::feed(const GenerationEvent& event) {
  for (const CompletionEvent& p : event.pieces) piece(p);
  if (event.ended) finish(event);
  return std::exchange(out_, {});
}

void MessageWriter::piece(const CompletionEvent& piece) {
  switch (piece.kind) {
    case CompletionEvent::Kind::reasoning:
      if (open_ != Open::thinking) {
        open(Open::thinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
      }
      if (!head_.omit_thinking) delta("thinking_delta", "thinking", piece.text);
      break;
    case CompletionEvent::Kind::content:
      if (open_ != Open::text) open(Open::text, {{"type", "text"}, {"text", ""}});
      delta("text_delta", "text", piece.text);
      break;
    case CompletionEvent::Kind::tool_name:
      open(Open::call, {{"type", "tool_use"},
                        {"id", new_id_("toolu_")},
                        {"name", piece.text},
                        {"input", OrderedJson::object()}});
      break;
    case CompletionEvent::Kind::tool_arguments:
      FATHOM_CHECK(open_ == Open::call, "arguments of call {} without its name", piece.call);
      delta("input_json_delta", "partial_json", piece.text);
      break;
    case CompletionEvent::Kind::tool_end:
      break;
  }
}

void MessageWriter::open(Open kind, OrderedJson block) {
  close(false);
  open_ = kind;
  block_ = std::move(block);
  emit("content_block_start", {{"index", index()}, {"content_block", block_}});
}

void MessageWriter::delta(const char* type, const char* key, const std::string& text) {
  text_ += text;
  if (!head_.stream) return;
  emit("content_block_delta", {{"index", index()}, {"delta", {{"type", type}, {key, text}}}});
}

void MessageWriter::close(bool cut) {
  if (open_ == Open::none) return;
  if (open_ == Open::thinking) {
    // Clients keep a signature with the thinking and want one to be there; nothing here is signed,
    // and nothing that comes back is trusted because of it.
    const std::string signature = head_.id;
    emit("content_block_delta",
         {{"index", index()}, {"delta", {{"type", "signature_delta"}, {"signature", signature}}}});
    block_["thinking"] = text_;
    block_["signature"] = signature;
  } else if (open_ == Open::text) {
    block_["text"] = text_;
  } else {
    block_["input"] = input_of(text_, cut);
  }
  emit("content_block_stop", {{"index", index()}});
  message_["content"].push_back(std::exchange(block_, nullptr));
  open_ = Open::none;
  text_.clear();
}

void MessageWriter::finish(const GenerationEvent& event) {
  close(event.finish_reason == "length");
  if (event.failure) {
    if (head_.stream) out_ += message_error_event(*event.failure);
    return;
  }
  message_["stop_reason"] = stop_reason_of(event);
  if (!event.stop_text.empty()) message_["stop_sequence"] = event.stop_text;
  message_["usage"] = usage_of(event.stats, event.reasoning_tokens);
  emit("message_delta",
       {{"delta",
         {{"stop_reason", message_["stop_reason"]}, {"stop_sequence", message_["stop_sequence"]}}},
        {"usage", message_["usage"]}});
  emit("message_stop", OrderedJson::object());
}

void MessageWriter::emit(std::string_view type, const OrderedJson& data) {
  if (!head_.stream) return;
  OrderedJson event = {{"type", type}};
  event.update(data);
  out_ += sse_event(type, event);
}

}  // namespace fathom::server
