#include "core/model/kv_pool.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/model/kv_cache.h"

namespace qamserve {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 8;
  return config;
}

KvLayout SmallLayout(KvType type = KvType::kF32) { return KvLayout(SmallConfig(), 2, {type, 8}); }

TEST(KvLayoutTest, SizesFollowFromTheShape) {
  // 2 layers x 1 head x (keys + values) x 8 tokens x 8 dimensions.
  EXPECT_EQ(SmallLayout().block_bytes(), 2 * 2 * 8 * 8 * 4);
  // A byte an element and a float for each key and each value of a token.
  EXPECT_EQ(SmallLayout(KvType::kInt8).block_bytes(), 2 * (2 * 8 * 8 + 2 * 8 * 4));
  EXPECT_EQ(SmallLayout().BlocksFor(0), 0);
  EXPECT_EQ(SmallLayout().BlocksFor(8), 1);
  EXPECT_EQ(SmallLayout().BlocksFor(9), 2);
  EXPECT_EQ(KvCache::BytesFor(SmallConfig(), 33), 2 * (2 * 2 * 32 * 8 * 4)) << "blocks of 32 tokens unless said";
}

TEST(KvPoolTest, CountsUsersAndGivesBlocksBack) {
  KvPool pool(SmallLayout(), 3);
  const KvPool::Block a = pool.Take(), b = pool.Take();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool.used(), 2);
  pool.Share(a);
  pool.Release(a);
  EXPECT_EQ(pool.used(), 2) << "one user is left";
  pool.Release(a);
  EXPECT_EQ(pool.used(), 1);
  EXPECT_NE(pool.Take(), KvPool::kNone);
  EXPECT_NE(pool.Take(), KvPool::kNone);
  EXPECT_EQ(pool.Take(), KvPool::kNone);
  EXPECT_EQ(pool.available(), 0);
}

TEST(KvPoolTest, KeepsTheBooksOfBlocksThatLieElsewhere) {
  KvPool pool(SmallLayout(), 2, KvMemory::kElsewhere);
  const KvPool::Block a = pool.Take(), b = pool.Take();
  EXPECT_EQ(a, 0) << "blocks count from the start of whoever has the memory";
  EXPECT_EQ(b, 1);
  EXPECT_EQ(pool.Take(), KvPool::kNone);
  EXPECT_EQ(pool.data(a), nullptr);
  pool.Name(a, "a");
  pool.Release(a);
  EXPECT_EQ(pool.Find("a"), a);
}

TEST(KvPoolTest, NamedBlocksStayUntilTheirMemoryIsWanted) {
  KvPool pool(SmallLayout(), 3);
  const KvPool::Block a = pool.Take(), b = pool.Take(), c = pool.Take();
  std::memset(pool.data(a), 'a', 16);
  EXPECT_EQ(pool.Name(a, "A"), a);
  EXPECT_EQ(pool.Name(b, "B"), b);
  EXPECT_EQ(pool.Name(c, "A"), a) << "the first of a name keeps it";
  EXPECT_EQ(pool.Find("C"), KvPool::kNone);
  EXPECT_EQ(pool.Find("A"), a);
  pool.Release(a);
  pool.Release(a);
  pool.Release(b);
  pool.Release(c);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.cached(), 2);
  // The block without a name goes first, then the one longest without users, which is A until it is found again.
  EXPECT_EQ(pool.Take(), c);
  EXPECT_EQ(pool.Find("A"), a);
  EXPECT_EQ(std::memcmp(pool.data(a), "aaaaaaaaaaaaaaaa", 16), 0);
  EXPECT_EQ(pool.available(), 1);
  pool.Release(a);
  EXPECT_EQ(pool.Take(), b);
  EXPECT_FALSE(pool.Knows("B"));
  EXPECT_TRUE(pool.Knows("A"));
  EXPECT_EQ(pool.Take(), a);
  EXPECT_FALSE(pool.Knows("A"));
  EXPECT_EQ(pool.Find("A"), KvPool::kNone);
}

TEST(KvCacheTest, TakesWhatItNeedsOrNothing) {
  KvPool pool(SmallLayout(), 4);
  KvCache one(pool), other(pool);
  EXPECT_TRUE(one.Reserve(17));
  EXPECT_EQ(one.capacity(), 24);
  EXPECT_EQ(one.MissingBlocks(24), 0);
  EXPECT_EQ(one.MissingBlocks(25), 1);
  EXPECT_FALSE(other.Reserve(9));
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(other.capacity(), 0);
  EXPECT_TRUE(other.Reserve(8));
  one.Clear();
  EXPECT_EQ(pool.available(), 3);
  EXPECT_TRUE(other.Reserve(32));
  {
    const KvCache moved = std::move(other);
    EXPECT_EQ(moved.capacity(), 32);
    EXPECT_EQ(pool.available(), 0);
  }
  EXPECT_EQ(pool.available(), 4);
}

TEST(KvCacheTest, SharesFullBlocks) {
  KvPool pool(SmallLayout(), 4);
  KvCache first(pool);
  ASSERT_TRUE(first.Reserve(16));
  first.SetLength(16);
  first.NameBlock(0, "begin");
  KvCache second(pool);
  second.AppendShared(pool.Find("begin"));
  EXPECT_EQ(second.length(), 8);
  EXPECT_EQ(second.blocks()[0], first.blocks()[0]);
  EXPECT_EQ(pool.used(), 2);
  ASSERT_TRUE(second.Reserve(16));
  EXPECT_EQ(pool.used(), 3);
  // Filled beside each other with the same text: the second one's copy is given back.
  second.SetLength(16);
  first.NameBlock(1, "begin and more");
  second.NameBlock(1, "begin and more");
  EXPECT_EQ(second.blocks()[1], first.blocks()[1]);
  EXPECT_EQ(pool.used(), 2);
  first.Clear();
  EXPECT_EQ(pool.used(), 2);
  second.Clear();
  EXPECT_EQ(pool.used(), 0);
  EXPECT_EQ(pool.cached(), 2);
}

TEST(KvCacheTest, TheEndOfASequenceIsForgottenBeforeItsBeginning) {
  KvPool pool(SmallLayout(), 2);
  {
    KvCache cache(pool);
    ASSERT_TRUE(cache.Reserve(16));
    cache.NameBlock(0, "begin");
    cache.NameBlock(1, "end");
  }
  pool.Take();
  EXPECT_TRUE(pool.Knows("begin"));
  EXPECT_FALSE(pool.Knows("end"));
}

}  // namespace
}  // namespace qamserve
