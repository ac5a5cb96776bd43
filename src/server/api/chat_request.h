// Reads the body of /v1/chat/completions. Also turns a conversation of any chat protocol into a
// prompt.
#pragma once

#include <string>
#include <vector>

#include "server/api/json_request.h"
#include "server/api/sampling_request.h"
#include "server/api/tool_request.h"
#include "server/generation.h"
#include "text/messages.h"

namespace fathom::server {

struct ChatRequest {
  Conversation conversation;
  bool continues = false;  // the answer begins with the conversation's last message
  bool thinking = false;
  bool counts_only = false;  // nothing is generated: the prompt may be longer than the context
  AnswerForm form;
  StreamRequest stream;
  GenerationRequest generation;    // without id, prompt and compiled form
  ToolNames names;                 // the client's names of the tools that the model is shown
  bool legacy_functions = false;   // calls are written as function_call
  std::set<std::string> left_out;  // types of tools and items that are not shown to the model
};

// Reads a request; does not check the model's name. Throws Error with the place for what is wrong,
// and for fields that this server knows but does not support. Unknown fields are ignored.
ChatRequest read_chat_request(const OrderedJson& body, const ServiceOptions& options);

// Reads the messages of a request, and whether the last one is to be continued. Developer messages
// are instructions, as with OpenAI: they become system messages, because the encoding's own
// developer role means something else. Throws Error if the conversation has nothing to answer.
void read_conversation(const JsonField& root, Encoding encoding, ChatRequest& request);

// Whether `root` asks for reasoning before the answer (default: no): chat_template_kwargs,
// thinking, enable_thinking or reasoning_effort.
bool read_thinking(const JsonField& root);

// Throws PromptTooLong if `bytes` bytes of text exceed the context even if every token were the
// longest of the vocabulary. Called before tokenizing, which is slow for such texts.
void check_prompt_bytes(const Service& service, size_t bytes);

struct ChatPrompt {
  std::vector<int32_t> ids;
  bool thinking = false;  // the prompt ends in <think>: the answer begins with reasoning
};
// Renders and tokenizes the conversation. Throws Error if the encoding cannot express it.
ChatPrompt chat_prompt(const Service& service, const ChatRequest& request);

}  // namespace fathom::server
