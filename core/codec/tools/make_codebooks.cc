// Makes core/codec/codebook_tables.h: prints it to standard output. Deterministic: a fixed seed, quadrature instead of
// samples, one thread. About five minutes.
//
// Lloyd's iteration runs on a midpoint grid over one quadrant of the unit circular Gaussian. The points of an optimal
// two-dimensional quantizer are spread as the square root of the source's density (Panter and Dite 1951; Zador), a
// Gaussian of twice the variance, so that is where they start. Afterwards the points move to an integer lattice: steps
// are tried around the one that just holds the outermost point, and for each Lloyd goes on with rounded centroids.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "core/base/digest.h"
#include "core/base/rng.h"

namespace qamserve {
namespace {

struct Point {
  double x, y;
};

// The quadrant as cells of equal side with their probability.
class Source {
 public:
  Source() : mass_(kSide) {
    for (int i = 0; i < kSide; ++i) mass_[i] = std::exp(-At(i) * At(i) / 2);
  }
  static constexpr int kSide = 900;
  static constexpr double kExtent = 5.6;  // beyond lies 2e-8 of the mass
  static double At(int i) { return (i + 0.5) * kExtent / kSide; }
  double Mass(int i, int j) const { return mass_[i] * mass_[j]; }

 private:
  std::vector<double> mass_;
};

struct Pass {
  double mse;  // per weight
  std::vector<Point> centroids;
};

// One pass over the source. The nearest point of a cell's left neighbour bounds the search: points are sorted by x, and
// those farther away in x alone than the best so far are never looked at.
Pass Assign(const Source& source, const std::vector<Point>& points) {
  const size_t n = points.size();
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return points[a].x < points[b].x; });
  std::vector<double> mass(n), sx(n), sy(n);
  double error = 0, total = 0;
  for (int i = 0; i < Source::kSide; ++i) {
    const double x = Source::At(i);
    const size_t start =
        std::lower_bound(order.begin(), order.end(), x, [&](size_t a, double v) { return points[a].x < v; }) -
        order.begin();
    size_t last = order[std::min(start, n - 1)];
    for (int j = 0; j < Source::kSide; ++j) {
      const double y = Source::At(j);
      size_t best = last;
      double d = (x - points[last].x) * (x - points[last].x) + (y - points[last].y) * (y - points[last].y);
      auto look = [&](size_t p) {
        const double dx = x - points[p].x, dy = y - points[p].y, e = dx * dx + dy * dy;
        if (e < d) d = e, best = p;
        return dx * dx < d;
      };
      for (size_t k = start; k < n && look(order[k]); ++k) {
      }
      for (size_t k = start; k-- > 0 && look(order[k]);) {
      }
      last = best;
      const double w = source.Mass(i, j);
      mass[best] += w, sx[best] += w * x, sy[best] += w * y;
      error += w * d, total += w;
    }
  }
  Pass pass{error / total / 2, points};
  for (size_t p = 0; p < n; ++p) {
    if (mass[p] > 0) pass.centroids[p] = {sx[p] / mass[p], sy[p] / mass[p]};
  }
  return pass;
}

std::vector<Point> Lloyd(const Source& source, size_t n, uint64_t seed, int iterations, double* mse) {
  Rng rng(seed);
  std::vector<Point> points(n);
  for (Point& p : points)
    p = {std::fabs(rng.NextGaussian()) * std::sqrt(2.0), std::fabs(rng.NextGaussian()) * std::sqrt(2.0)};
  for (int i = 0; i < iterations; ++i) {
    Pass pass = Assign(source, points);
    *mse = pass.mse;
    points = std::move(pass.centroids);
  }
  return points;
}

struct Lattice {
  double step = 0, mse = 1e9;
  std::vector<int> x, y;
};

Lattice Round(const std::vector<Point>& points, double step, int limit) {
  Lattice out;
  out.step = step;
  for (const Point& p : points) {
    out.x.push_back(std::clamp(static_cast<int>(std::lround(p.x / step)), 0, limit));
    out.y.push_back(std::clamp(static_cast<int>(std::lround(p.y / step)), 0, limit));
  }
  return out;
}

std::vector<Point> PointsOf(const Lattice& lattice) {
  std::vector<Point> points;
  for (size_t i = 0; i < lattice.x.size(); ++i)
    points.push_back({lattice.x[i] * lattice.step, lattice.y[i] * lattice.step});
  return points;
}

Lattice ToIntegers(const Source& source, const std::vector<Point>& points, int limit) {
  double extent = 0;
  for (const Point& p : points) extent = std::max({extent, p.x, p.y});
  Lattice best;
  for (double clip : {0.86, 0.90, 0.93, 0.96, 0.98, 1.0}) {
    // The step is a float that survives printing, so that the tables and this program agree to the bit.
    const double step = static_cast<float>(extent * clip / limit);
    Lattice lattice = Round(points, step, limit);
    for (int i = 0; i < 6; ++i) {
      Pass pass = Assign(source, PointsOf(lattice));
      if (pass.mse < best.mse) {
        best = lattice;
        best.mse = pass.mse;
      }
      lattice = Round(pass.centroids, step, limit);
    }
  }
  return best;
}

void PrintRow(const char* name, int bits, const std::vector<int>& values) {
  std::printf("inline constexpr uint8_t %s%d[] = {", name, bits);
  for (size_t i = 0; i < values.size(); ++i)
    std::printf("%s%d", i == 0 ? "" : i % 24 == 0 ? ",\n    " : ", ", values[i]);
  std::printf("};\n");
}

void MakeAll() {
  const Source source;
  std::printf(
      "// Made by core/codec/tools/make_codebooks.cc; do not edit. Magnitudes of one quadrant, sorted by radius.\n"
      "#pragma once\n\n#include <cstdint>\n\n#include \"core/codec/codebook.h\"\n\nnamespace qamserve {\n\n");
  std::vector<Lattice> all;
  for (int bits = 5; bits <= 12; ++bits) {
    const size_t n = size_t{1} << (bits - 2);
    // Small tables have poor local minima and are cheap to try again; large ones differ little.
    const int tries = bits <= 8 ? 12 : bits <= 10 ? 4 : 2;
    std::vector<Point> best_points;
    double best_mse = 1e9;
    for (int t = 0; t < tries; ++t) {
      double mse = 0;
      std::vector<Point> points = Lloyd(source, n, static_cast<uint64_t>(bits * 100 + t), bits <= 10 ? 250 : 300, &mse);
      if (mse < best_mse) best_mse = mse, best_points = points;
    }
    std::sort(best_points.begin(), best_points.end(),
              [](const Point& a, const Point& b) { return a.x * a.x + a.y * a.y < b.x * b.x + b.y * b.y; });
    Lattice lattice = ToIntegers(source, best_points, bits <= 9 ? 127 : 255);
    std::fprintf(stderr, "bits %d: mse %.5g, on the lattice %.5g\n", bits, best_mse, lattice.mse);
    PrintRow("kX", bits, lattice.x);
    PrintRow("kY", bits, lattice.y);
    all.push_back(lattice);
  }
  std::printf("\ninline constexpr Codebook kCodebooks[] = {\n");
  for (int bits = 5; bits <= 12; ++bits) {
    const Lattice& l = all[bits - 5];
    std::printf("    {%d, %.9gf, kX%d, kY%d, %.6g},\n", bits, l.step, bits, bits, l.mse);
  }
  std::printf("};\n\n}  // namespace qamserve\n");
}

}  // namespace
}  // namespace qamserve

int main() { qamserve::MakeAll(); }
