#include "server/api/anthropic_request.h"

#include <string_view>
#include <utility>

#include "server/api/anthropic_messages.h"
#include "server/api/turns.h"

namespace fathom::server {
namespace {

void refuse_unsupported_fields(const JsonField& root) {
  refuse_unsupported(root, {{"container", "no code is run here"},
                            {"mcp_servers", "tools are the client's to run"},
                            {"stop", "it is stop_sequences here"},
                            {"n", "", "1"},
                            {"response_format", "it is output_config.format here"}});
  // The encodings leave out the reasoning of earlier turns by themselves; other edits are not
  // supported.
  const JsonField edits = root.at("context_management").null()
                              ? root.at("context_management")
                              : root.at("context_management").at("edits");
  for (size_t i = 0; !edits.null() && i < edits.array_size(); ++i) {
    const JsonField type = edits.at(i).at("type");
    if (!type.string().starts_with("clear_thinking"))
      fail("{}: this server does not support '{}'", type.path(), type.string());
  }
}

void read_thinking(const JsonField& at, MessagesRequest& request) {
  if (at.null()) return;
  const std::string& type = at.at("type").string();
  // Between tool calls the encodings never open reasoning, so there is nothing to switch on.
  if (type == "disabled" || type == "between_tools") return;
  if (type != "enabled" && type != "adaptive")
    fail("thinking.type: expected enabled, adaptive or disabled, found '{}'", type);
  // The encodings only know reasoning on or off, so the budget is checked but not used.
  if (type == "enabled") {
    constexpr int64_t kLeast = 1024, kMost = int64_t{1} << 40;
    at.at("budget_tokens").expect(!at.at("budget_tokens").null(), "an integer");
    integer_or(at.at("budget_tokens"), 0, kLeast, kMost);
  }
  request.chat.thinking = true;
  const std::string display = string_or(at.at("display"), "summarized");
  if (display != "summarized" && display != "omitted")
    fail("thinking.display: expected summarized or omitted, found '{}'", display);
  request.omit_thinking = display == "omitted";
}

}  // namespace

MessagesRequest read_messages_request(const OrderedJson& body, const ServiceOptions& options,
                                      bool count_only) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const JsonField root(body, "");
  refuse_unsupported_fields(root);
  MessagesRequest request;
  ChatRequest& chat = request.chat;
  GenerationRequest& generation = chat.generation;
  chat.counts_only = count_only;
  chat.stream.stream = root.at("stream").boolean_or(false);
  read_sampling(root, options, generation);
  for (std::string& text : read_stop_texts(root.at("stop_sequences")))
    generation.stop.push_back(std::move(text));
  const JsonField max_tokens = root.at("max_tokens");
  if (!count_only) max_tokens.expect(!max_tokens.null(), "an integer");
  generation.max_tokens = integer_or(max_tokens, 0, 1, kMost);
  read_thinking(root.at("thinking"), request);
  chat.conversation = conversation_of_messages(body);
  place_instructions(chat.conversation, options.encoding, false);
  chat.continues = settle_last_turn(chat.conversation, "messages");
  apply_tools(read_tool_use(root, Protocol::messages), chat);
  apply_format(root, Protocol::messages, options, chat);
  return request;
}

}  // namespace fathom::server
