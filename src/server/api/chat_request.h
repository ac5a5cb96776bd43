// Reads the body of /v1/chat/completions; and turns a conversation of any chat protocol into a
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
  ToolNames names;                 // what the client calls the tools that the model knows
  bool legacy_functions = false;   // calls are written as function_call
  std::set<std::string> left_out;  // types of tools and items that the model does not hear of
};

// Reads a request; the model's name is not looked at. Throws Error with the place for what is
// wrong, and for what this server knows but cannot do. Unknown fields are ignored.
ChatRequest read_chat_request(const OrderedJson& body, const ServiceOptions& options);

// Reads the messages of a request, and whether the last one is to be continued. Developer messages
// are instructions, as with OpenAI: they become system messages where the encoding's own developer
// role means something else. Throws Error for a conversation that leaves nothing to answer.
void read_conversation(const JsonField& root, Encoding encoding, ChatRequest& request);

// Whether `root` asks for reasoning in front of the answer (default: no): chat_template_kwargs,
// thinking, enable_thinking or reasoning_effort.
bool read_thinking(const JsonField& root);

// Throws PromptTooLong for text of so many bytes that it exceeds the context even if every token
// were the longest of the vocabulary. Called before tokenizing, which takes time for such texts.
void check_prompt_bytes(const Service& service, size_t bytes);

struct ChatPrompt {
  std::vector<int32_t> ids;
  bool thinking = false;  // the prompt ends in <think>: the answer begins with reasoning
};
// Throws Error for a conversation that the encoding cannot express.
ChatPrompt chat_prompt(const Service& service, const ChatRequest& request);

}  // namespace fathom::server
