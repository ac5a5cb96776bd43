#include "text/chat_v32.h"

#include "base/error.h"
#include "text/chat_markers.h"
#include "text/dsml_tools.h"
#include "text/json_progress.h"

namespace fathom {
namespace {

using namespace marker;

// An error quotes the beginning of what may be megabytes.
std::string shortened(const std::string& text) {
  constexpr size_t kMost = 200;
  if (text.size() <= kMost) return text;
  size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;  // a whole character
  return text.substr(0, end) + "...";
}

class RendererV32 {
 public:
  RendererV32(const Conversation& conversation, bool thinking)
      : conversation_(conversation), thinking_(thinking) {
    for (size_t i = 0; i < conversation.size(); ++i) {
      const Role role = conversation[i].role;
      if (role == Role::user || role == Role::developer) last_ = static_cast<ptrdiff_t>(i);
    }
  }

  std::vector<Segment> render() {
    prompt_.control(kBos);
    for (size_t i = 0; i < conversation_.size(); ++i) {
      switch (conversation_[i].role) {
        case Role::system:
          prompt_.plain(conversation_[i].content);
          add_instructions(conversation_[i]);
          break;
        case Role::developer:
        case Role::user:
          add_user(i);
          break;
        case Role::assistant:
          add_assistant(i);
          break;
        case Role::tool:
          break;  // written with the assistant message they answer
      }
    }
    return prompt_.take();
  }

 private:
  std::string place(size_t index) const { return place_of_message(conversation_, index); }
  bool before_or_at_last(size_t index) const { return static_cast<ptrdiff_t>(index) <= last_; }

  void add_instructions(const Message& m) {
    if (!m.tools.is_null()) {
      prompt_.template_text("\n\n");
      prompt_.template_text(kDsmlToolsHead);
      const char* separator = "";
      for (const OrderedJson& f : m.tools) {
        prompt_.plain(separator + python_dumps(f));
        separator = "\n";
      }
      prompt_.template_text(kDsmlToolsTail);
    }
    if (!m.response_format.is_null()) {
      prompt_.template_text("\n\n");
      prompt_.template_text(kResponseFormatHead);
      prompt_.plain(python_dumps(m.response_format));
    }
  }

  void add_user(size_t index) {
    const Message& m = conversation_[index];
    prompt_.control(kUser);
    if (m.role == Role::developer) {
      if (m.content.empty()) fail("{}: a developer message needs content", place(index));
      add_instructions(m);
      prompt_.template_text("\n\n# The user's message is: ");
    }
    prompt_.plain(m.content);
    prompt_.control(kAssistant);
    const bool opens = thinking_ && static_cast<ptrdiff_t>(index) == last_;
    prompt_.control(opens ? kThink : kEndThink);
  }

  void add_assistant(size_t index) {
    const Message& m = conversation_[index];
    if (thinking_ && !before_or_at_last(index)) {
      if (m.reasoning_content.empty() && m.tool_calls.empty()) {
        fail(
            "{}: in thinking mode an assistant message after the last user message needs "
            "reasoning_content or tool_calls",
            place(index));
      }
      prompt_.plain(m.reasoning_content);
      prompt_.control(kEndThink);
    }
    prompt_.plain(m.content);
    if (!m.tool_calls.empty()) add_calls(index);
    prompt_.control(kEos);
    add_results(index);
  }

  // Adds one DSML tag: "<" or "</", the DSML token, and the rest as plain text, since names in it
  // come from the request.
  void open_tag(std::string_view text) {
    prompt_.plain("<");
    prompt_.control(kDsml);
    prompt_.plain(text);
  }
  void close_tag(std::string_view text) {
    prompt_.plain("</");
    prompt_.control(kDsml);
    prompt_.plain(text);
  }

  void add_calls(size_t index) {
    prompt_.plain("\n\n");
    open_tag("function_calls>\n");
    for (const ToolCall& call : conversation_[index].tool_calls) {
      open_tag(fmt::format("invoke name=\"{}\">\n", call.name));
      add_parameters(index, call);
      prompt_.plain("\n");
      close_tag("invoke>\n");
    }
    close_tag("function_calls>");
  }

  void add_parameters(size_t index, const ToolCall& call) {
    // An answer that was cut may have a call with only the beginning of its arguments.
    const OrderedJson arguments = OrderedJson::parse(
        closed_json_object(call.arguments).value_or(call.arguments), nullptr, false);
    if (!arguments.is_object()) {
      fail("{}: arguments of the call of '{}': expected a JSON object, found '{}'", place(index),
           call.name, shortened(call.arguments));
    }
    const char* separator = "";
    for (const auto& [key, value] : arguments.items()) {
      prompt_.plain(separator);
      const bool text = value.is_string();
      open_tag(fmt::format("parameter name=\"{}\" string=\"{}\">", key, text));
      prompt_.plain(text ? value.get_ref<const std::string&>() : python_dumps(value));
      close_tag("parameter>");
      separator = "\n";
    }
  }

  // The results of one assistant message, in the order of its calls.
  void add_results(size_t assistant) {
    const std::vector<size_t> calls = answered_calls(conversation_, assistant);
    if (calls.empty()) return;
    const size_t expected = conversation_[assistant].tool_calls.size();
    if (calls.size() != expected) {
      fail("{}: {} tool calls, but {} results behind them", place(assistant), expected,
           calls.size());
    }
    std::vector<size_t> result_of(expected);
    for (size_t i = 0; i < calls.size(); ++i) result_of[calls[i]] = assistant + 1 + i;
    prompt_.plain("\n\n<function_results>");
    for (const size_t result : result_of) {
      prompt_.plain("\n<result>" + conversation_[result].content + "</result>");
    }
    prompt_.plain("\n</function_results>\n\n");
    prompt_.control(thinking_ && !before_or_at_last(assistant) ? kThink : kEndThink);
  }

  const Conversation& conversation_;
  bool thinking_;
  ptrdiff_t last_ = -1;  // the last message with role user or developer
  PromptBuilder prompt_;
};

// Without the developer messages before the last user or developer message.
Conversation without_earlier_developers(const Conversation& conversation) {
  size_t last = conversation.size();
  while (last > 0 && conversation[last - 1].role != Role::user &&
         conversation[last - 1].role != Role::developer) {
    --last;
  }
  Conversation kept;
  for (size_t i = 0; i < conversation.size(); ++i) {
    if (conversation[i].role != Role::developer || i + 1 >= last) kept.push_back(conversation[i]);
  }
  return kept;
}

}  // namespace

std::vector<Segment> render_v32(const Conversation& conversation, bool thinking,
                                bool keep_earlier) {
  if (!thinking || keep_earlier) return RendererV32(conversation, thinking).render();
  const Conversation kept = without_earlier_developers(conversation);
  return RendererV32(kept, thinking).render();
}

}  // namespace fathom
