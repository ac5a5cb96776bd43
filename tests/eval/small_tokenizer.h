// The bundled model's tokenizer, read once a process.
#pragma once

#include <string>

#include "text/tokenizer.h"

namespace fathom::test {

inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::from_folder(std::string(FATHOM_SOURCE_DIR) + "/models/small");
  return tokenizer;
}

}  // namespace fathom::test
