// One interface to both prompt encodings, and the rule that chooses one for a checkpoint folder.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "text/messages.h"
#include "text/prompt.h"

namespace fathom {

enum class Encoding { v31, v32 };

std::string_view encoding_name(Encoding encoding);  // "v3.1", "v3.2"

// Throws Error for any other name.
Encoding encoding_of_name(std::string_view name);

// Returns v3.1 if the folder's tokenizer_config.json has a chat_template, else v3.2. A model that
// is prompted in the wrong encoding answers badly. Throws Error if the folder has no such file.
Encoding encoding_of_folder(const std::filesystem::path& folder);

// Returns the encoding named `forced`, or encoding_of_folder(folder) if `forced` is empty.
Encoding choose_encoding(std::string_view forced, const std::filesystem::path& folder);

struct ChatOptions {
  Encoding encoding = Encoding::v32;
  bool thinking = false;
  bool keep_earlier = false;  // v3.2: see chat_v32.h
};

std::vector<Segment> render(const Conversation& conversation, const ChatOptions& options);

}  // namespace fathom
