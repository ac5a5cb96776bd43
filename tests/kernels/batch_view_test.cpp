// Rows that are dealt out to ranks in blocks.
#include "kernels/batch_view.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(RowShare, EveryTokenIsOneRanks) {
  for (int parts : {1, 2, 3, 8})
    for (int tokens : {0, 1, 63, 64, 65, 128, 200, 511, 512, 513, 4096}) {
      int all = 0;
      for (int part = 0; part < parts; ++part) {
        const RowShare share{part, parts};
        int before = -1;
        for (int i = 0; i < share.count(tokens); ++i) {
          const int token = share.token(i);
          EXPECT_TRUE(share.has(token) && before < token && token < tokens)
              << token << " of " << tokens << ", part " << part << " of " << parts;
          before = token;
        }
        all += share.count(tokens);
      }
      EXPECT_EQ(all, tokens) << parts << " parts";
    }
}

}  // namespace
}  // namespace fathom
