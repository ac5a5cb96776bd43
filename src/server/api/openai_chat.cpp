#include "server/api/openai_chat.h"

#include <utility>

#include "server/api/chat_turn.h"
#include "server/api/openai_format.h"
#include "server/http/sse.h"

namespace fathom::server {
namespace {

OrderedJson tool_call_json(const ToolCall& call) {
  OrderedJson json;
  json["id"] = call.id;
  json["type"] = "function";
  json["function"]["name"] = call.name;
  json["function"]["arguments"] = call.arguments;
  return json;
}

// An answer in flight, as a stream or as a whole. Kept alive by the listener of its generation; all
// calls are made in tasks of the reply.
class ChatAnswer {
 public:
  ChatAnswer(Service& service, std::shared_ptr<HttpReply> reply, const ChatRequest& request)
      : service_(service),
        reply_(std::move(reply)),
        id_(request.generation.id),
        created_(unix_now()),
        stream_(request.stream),
        with_logprobs_(request.generation.logprobs >= 0),
        may_call_(has_tools(request.conversation)),
        legacy_functions_(request.legacy_functions),
        usage_(static_cast<size_t>(request.generation.n), request.generation.n),
        chunks_(service.options, id_, "chat.completion.chunk", created_, stream_.include_usage),
        choices_(static_cast<size_t>(request.generation.n)),
        open_(choices_.size()) {}

  // The request has been accepted.
  void begin() {
    if (!stream_.stream) return;
    begin_events(*reply_);
    // An answer that may turn out to be calls alone has no content to begin with.
    const std::string_view head =
        may_call_ ? R"("delta":{"role":"assistant","content":null},"logprobs":null)"
                  : R"("delta":{"role":"assistant","content":""},"logprobs":null)";
    for (size_t c = 0; c < choices_.size(); ++c)
      reply_->write(chunks_.choice(static_cast<int>(c), head, ""));
  }

  void hear(const GenerationEvent& event) {
    if (over_) return;
    if (event.failure) return fail(*event.failure);
    usage_.take(event);
    if (stream_.stream)
      write_chunks(event);
    else
      keep(event);
    if (!event.ended || --open_ > 0) return;
    over_ = true;
    if (stream_.stream)
      end_stream();
    else
      send_whole();
  }

 private:
  struct Choice {
    OrderedJson logprobs = OrderedJson::array();
    OrderedJson json;  // once it has ended
  };

  void fail(const Failure& failure) {
    over_ = true;
    if (!stream_.stream) return send_error(*reply_, ErrorShape::openai, failure);
    reply_->write(error_event(failure));
    reply_->end();
  }

  OrderedJson logprobs_json(OrderedJson content) const {
    OrderedJson json;
    json["content"] = std::move(content);
    json["refusal"] = nullptr;
    return json;
  }

  OrderedJson usage_so_far() const {
    return stream_.continuous_usage ? usage_json(usage_.total()) : OrderedJson(nullptr);
  }

  void write_chunks(const GenerationEvent& event) {
    std::string logprobs = "null";
    if (!event.logprobs.empty())
      logprobs = dump_json(logprobs_json(chat_logprobs_json(service_.tokenizer, event.logprobs)));
    std::string out;
    if (!event.pieces.empty() || !event.logprobs.empty())
      out = chunks_.choice(event.choice,
                           "\"delta\":" + delta_text(event) + ",\"logprobs\":" + logprobs, "",
                           usage_so_far());
    if (event.ended)
      out += chunks_.choice(event.choice, "\"delta\":{},\"logprobs\":null", finish_reason(event),
                            usage_so_far());
    if (!out.empty()) reply_->write(std::move(out));
  }

  // The texts of one kind are joined: within one chunk their order means nothing.
  std::string delta_text(const GenerationEvent& event) const {
    std::string reasoning, content;
    OrderedJson calls;
    for (const CompletionEvent& piece : event.pieces) {
      switch (piece.kind) {
        case CompletionEvent::Kind::reasoning:
          reasoning += piece.text;
          break;
        case CompletionEvent::Kind::content:
          content += piece.text;
          break;
        case CompletionEvent::Kind::tool_name: {
          OrderedJson call;
          call["index"] = piece.call;
          call.update(tool_call_json(
              {tool_call_id(id_, event.choice, piece.call), piece.text, std::string()}));
          calls.push_back(std::move(call));
          break;
        }
        case CompletionEvent::Kind::tool_arguments:
          if (calls.empty() || calls.back()["index"] != piece.call) {
            OrderedJson call;
            call["index"] = piece.call;
            call["function"]["arguments"] = "";
            calls.push_back(std::move(call));
          }
          calls.back()["function"]["arguments"].get_ref<std::string&>() += piece.text;
          break;
        case CompletionEvent::Kind::tool_end:
          break;
      }
    }
    std::string out = "{";
    const auto add = [&](const char* name, const std::string& json) {
      out += fmt::format("{}\"{}\":{}", out.size() > 1 ? "," : "", name, json);
    };
    if (!reasoning.empty()) add("reasoning_content", json_text(reasoning));
    if (!content.empty() || (reasoning.empty() && calls.empty()))
      add("content", json_text(content));
    if (!calls.empty() && legacy_functions_)
      add("function_call", dump_json(calls[0]["function"]));
    else if (!calls.empty())
      add("tool_calls", dump_json(calls));
    return out + "}";
  }

  void end_stream() {
    if (stream_.include_usage) reply_->write(chunks_.usage(usage_json(usage_.total())));
    reply_->write(std::string(kStreamDone));
    reply_->end();
  }

  void keep(const GenerationEvent& event) {
    Choice& choice = choices_[static_cast<size_t>(event.choice)];
    for (OrderedJson& token : chat_logprobs_json(service_.tokenizer, event.logprobs))
      choice.logprobs.push_back(std::move(token));
    if (!event.ended) return;
    OrderedJson& json = choice.json;
    json["index"] = event.choice;
    json["message"] = message_json(*event.message);
    json["logprobs"] =
        with_logprobs_ ? logprobs_json(std::move(choice.logprobs)) : OrderedJson(nullptr);
    json["finish_reason"] = finish_reason(event);
  }

  std::string finish_reason(const GenerationEvent& event) const {
    const bool called = legacy_functions_ && event.finish_reason == "tool_calls";
    return called ? "function_call" : event.finish_reason;
  }

  OrderedJson message_json(const Message& message) const {
    OrderedJson json;
    json["role"] = "assistant";
    const bool silent = message.content.empty() && !message.tool_calls.empty();
    json["content"] = silent ? OrderedJson(nullptr) : OrderedJson(message.content);
    json["refusal"] = nullptr;
    if (!message.reasoning_content.empty()) json["reasoning_content"] = message.reasoning_content;
    for (const ToolCall& call : message.tool_calls) {
      if (legacy_functions_)
        json["function_call"] = tool_call_json(call)["function"];
      else
        json["tool_calls"].push_back(tool_call_json(call));
    }
    return json;
  }

  void send_whole() {
    OrderedJson json = answer_head(service_.options, id_, "chat.completion", created_);
    json["system_fingerprint"] = fingerprint_json(service_.options);
    json["choices"] = OrderedJson::array();
    for (Choice& choice : choices_) json["choices"].push_back(std::move(choice.json));
    json["usage"] = usage_json(usage_.total());
    reply_->send(200, "application/json", dump_json(json));
  }

  Service& service_;
  const std::shared_ptr<HttpReply> reply_;
  const std::string id_;
  const int64_t created_;
  const StreamRequest stream_;
  const bool with_logprobs_;
  const bool may_call_;
  const bool legacy_functions_;
  UsageCount usage_;
  const ChunkWriter chunks_;
  std::vector<Choice> choices_;
  size_t open_;  // choices that have not ended
  bool over_ = false;
};

}  // namespace

void handle_chat_completions(Service& service, const HttpRequest& http,
                             const std::shared_ptr<HttpReply>& reply) {
  answer_errors(*reply, "messages", [&] {
    const auto arrival = std::chrono::steady_clock::now();
    const OrderedJson body = parse_json_body(http.body);
    const JsonField root(body, "");
    if (!serves_model(root, service.options))
      return send_model_not_found(*reply, root.at("model").string(), service.options);
    ChatRequest request = read_chat_request(body, service.options);
    note_left_out(*reply, request);
    GenerationRequest& g = request.generation;
    g.arrival = arrival;
    g.id = new_id("chatcmpl-");
    if (auto failure = prepare(service, request)) {
      const bool format = failure->message.starts_with("response_format");
      const char* tools = request.legacy_functions ? "functions" : "tools";
      return send_error(*reply, ErrorShape::openai, *failure, format ? "response_format" : tools);
    }
    auto answer = std::make_shared<ChatAnswer>(service, reply, request);
    if (auto failure =
            start_generation(service, reply, std::move(g),
                             [answer](const GenerationEvent& event) { answer->hear(event); }))
      return send_error(*reply, ErrorShape::openai, *failure);
    answer->begin();
  });
}

}  // namespace fathom::server
