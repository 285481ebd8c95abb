// Makes the tables of one family of codebooks: `make_codebooks joint|polar|scalar|uniform` prints
// core/codec/tables/FAMILY.h to standard output. Deterministic: a fixed seed, quadrature instead of samples, one
// thread. About five minutes for joint, one for polar, seconds for the others.
//
// Joint: Lloyd's iteration runs on a midpoint grid over one quadrant of the unit circular Gaussian. The points of an
// optimal two-dimensional quantizer are spread as the square root of the source's density (Panter and Dite 1951;
// Zador), a Gaussian of twice the variance, so that is where they start. Afterwards the points move to an integer
// lattice: steps are tried around the one that just holds the outermost point, and for each Lloyd goes on with rounded
// centroids.
//
// Polar: 2^a rings of 2^p phases, all rings with the same phases. In the sector of one phase, the ring nearest to a
// point at radius r and angle d off the phase is the one nearest to u = r cos d; the best rings are therefore the
// Lloyd-Max quantizer of u, r Rayleigh and d uniform, plus an error E[(r sin d)^2] that no ring can help. The split of
// b = a + p is the one that measures best on the lattice.
//
// Scalar: each column has the Lloyd-Max quantizer of a Gaussian (Max 1960), one bit more in the even column if b is
// odd. The levels go to integers of a common step; among many steps, and single levels moved by one, the best is kept.
//
// Uniform: odd multiples of half a level's width, so the lattice costs nothing. If b is odd the odd column's levels are
// twice as wide: both columns cover the same range, which is what rows scaled by their largest weight need.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/base/rng.h"

namespace qamserve {
namespace {

constexpr double kPi = 3.14159265358979323846;

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

// The lattice that holds all points with its outermost coordinate at `extent`.
Lattice AtExtent(const std::vector<Point>& points, int extent) {
  double largest = 0;
  for (const Point& p : points) largest = std::max({largest, p.x, p.y});
  return Round(points, static_cast<float>(largest / extent), extent);
}

// Magnitudes above this could saturate the 8-bit multiply-add of the kernels (codebook.h).
int Limit(int bits) { return bits <= 9 ? 127 : 255; }

Lattice Joint(const Source& source, int bits) {
  const size_t n = size_t{1} << (bits - 2);
  // Small tables have poor local minima and are cheap to try again; large ones differ little.
  const int tries = bits <= 8 ? 12 : bits <= 10 ? 4 : 2;
  std::vector<Point> best_points;
  double best_mse = 1e9;
  for (int t = 0; t < tries; ++t) {
    double mse = 0;
    std::vector<Point> points =
        Lloyd(source, n, static_cast<uint64_t>(bits) * 100 + static_cast<uint64_t>(t), bits <= 10 ? 250 : 300, &mse);
    if (mse < best_mse) best_mse = mse, best_points = points;
  }
  std::sort(best_points.begin(), best_points.end(),
            [](const Point& a, const Point& b) { return a.x * a.x + a.y * a.y < b.x * b.x + b.y * b.y; });
  std::fprintf(stderr, "joint %d: %.5g before the lattice\n", bits, best_mse);
  return ToIntegers(source, best_points, Limit(bits));
}

// Probability and first moment of a source on the positive half-line between two places.
struct Moments {
  double mass = 0, first = 0;
};

constexpr double kFar = 40;  // stands for infinity: no double is left of a Gaussian there

// Of |x|, x a unit Gaussian.
Moments HalfGaussian(double from, double to) {
  const double root_half = std::sqrt(0.5), density = 2 / std::sqrt(2 * kPi);
  return {std::erf(to * root_half) - std::erf(from * root_half),
          density * (std::exp(-from * from / 2) - std::exp(-to * to / 2))};
}

// Of u = r cos d, r Rayleigh and d uniform within half a sector of 2^phase_bits: closed form in r, Simpson's rule in d.
Moments SectorRadius(int phase_bits, double from, double to) {
  constexpr int kSteps = 64;
  const double half = kPi / std::ldexp(1, phase_bits);
  auto up_to = [](double r) {  // the integral of r times the Rayleigh density
    return std::sqrt(kPi / 2) * std::erf(r * std::sqrt(0.5)) - r * std::exp(-r * r / 2);
  };
  Moments sum;
  for (int i = 0; i <= kSteps; ++i) {
    const double c = std::cos(half * i / kSteps), a = from / c, b = to / c;
    const double weight = (i == 0 || i == kSteps ? 1 : i % 2 == 1 ? 4 : 2) / (3.0 * kSteps);
    sum.mass += weight * (std::exp(-a * a / 2) - std::exp(-b * b / 2));
    sum.first += weight * c * (up_to(b) - up_to(a));
  }
  return sum;
}

template <typename Source1D>
Moments CellMoments(const Source1D& source, const std::vector<double>& levels, size_t i) {
  return source(i == 0 ? 0 : (levels[i - 1] + levels[i]) / 2,
                i + 1 == levels.size() ? kFar : (levels[i] + levels[i + 1]) / 2);
}

// The optimal quantizer of a source with a log-concave density, which has no other fixed point (Fleischer 1964).
template <typename Source1D>
std::vector<double> LloydMax(const Source1D& source, size_t n) {
  std::vector<double> levels(n);
  for (size_t i = 0; i < n; ++i) levels[i] = 4.0 * (static_cast<double>(i) + 0.5) / static_cast<double>(n);
  for (double moved = 1; moved > 1e-8;) {
    std::vector<double> next(n);
    moved = 0;
    for (size_t i = 0; i < n; ++i) {
      const Moments cell = CellMoments(source, levels, i);
      next[i] = cell.first / cell.mass;
      moved = std::max(moved, std::fabs(next[i] - levels[i]));
    }
    levels = std::move(next);
  }
  return levels;
}

Lattice Polar(const Source& source, int bits) {
  Lattice best;
  std::vector<Point> best_points;
  int best_amplitude_bits = 0;
  // Finely divided, rings and phases share the bits about evenly: the neighbours of that split are enough to try.
  for (int amplitude_bits = bits / 2 - 1; amplitude_bits <= bits / 2; ++amplitude_bits) {
    const int phase_bits = bits - amplitude_bits, quarter = 1 << (phase_bits - 2);
    auto radius = [&](double from, double to) { return SectorRadius(phase_bits, from, to); };
    std::vector<Point> points;
    for (double r : LloydMax(radius, size_t{1} << amplitude_bits)) {
      for (int j = 0; j < quarter; ++j) {
        const double angle = (j + 0.5) / quarter * kPi / 2;
        points.push_back({r * std::cos(angle), r * std::sin(angle)});
      }
    }
    Lattice lattice = AtExtent(points, Limit(bits));
    lattice.mse = Assign(source, PointsOf(lattice)).mse;
    if (lattice.mse < best.mse) best = lattice, best_points = points, best_amplitude_bits = amplitude_bits;
  }
  // A slightly coarser lattice may happen to fit the rings better.
  for (int extent = Limit(bits) - 1; extent >= Limit(bits) - 16; --extent) {
    Lattice lattice = AtExtent(best_points, extent);
    lattice.mse = Assign(source, PointsOf(lattice)).mse;
    if (lattice.mse < best.mse) best = lattice;
  }
  std::fprintf(stderr, "polar %d: %d amplitude bits, %.5g before the lattice\n", bits, best_amplitude_bits,
               Assign(source, best_points).mse);
  return best;
}

// A column's quantizer: integer levels of one step.
struct Column {
  std::vector<int> levels;
  double mse = 0;
};

double GaussianMse(const std::vector<int>& levels, double step) {
  std::vector<double> v;
  v.reserve(levels.size());
  for (int level : levels) v.push_back(level * step);
  double mse = 1;
  for (size_t i = 0; i < v.size(); ++i) {
    const Moments cell = CellMoments(HalfGaussian, v, i);
    mse += v[i] * (v[i] * cell.mass - 2 * cell.first);
  }
  return mse;
}

// Ideal levels rounded, then moved one by one while that helps.
Column RoundColumn(const std::vector<double>& ideal, double step, int limit) {
  Column column;
  for (double v : ideal) column.levels.push_back(std::min(static_cast<int>(std::lround(v / step)), limit));
  column.mse = GaussianMse(column.levels, step);
  for (bool better = true; better;) {
    better = false;
    for (size_t i = 0; i < ideal.size(); ++i) {
      for (int move : {-1, 1}) {
        std::vector<int> levels = column.levels;
        levels[i] += move;
        const int below = i == 0 ? -1 : levels[i - 1], above = i + 1 == ideal.size() ? limit + 1 : levels[i + 1];
        if (levels[i] <= below || levels[i] >= above) continue;
        const double mse = GaussianMse(levels, step);
        if (mse < column.mse - 1e-12) column = {levels, mse}, better = true;
      }
    }
  }
  return column;
}

Lattice Product(const Column& x, const Column& y, double step) {
  Lattice out;
  out.step = step;
  out.mse = (x.mse + y.mse) / 2;
  for (int i : x.levels) {
    for (int j : y.levels) out.x.push_back(i), out.y.push_back(j);
  }
  return out;
}

size_t EvenColumnLevels(int bits) { return size_t{1} << ((bits + 1) / 2 - 1); }
size_t OddColumnLevels(int bits) { return size_t{1} << (bits / 2 - 1); }

Lattice Scalar(int bits) {
  const std::vector<double> even = LloydMax(HalfGaussian, EvenColumnLevels(bits));
  const std::vector<double> odd = LloydMax(HalfGaussian, OddColumnLevels(bits));
  Lattice best;
  for (int i = 0; i < 300; ++i) {  // the outermost level from 10 % beyond the limit to 20 % within
    const double step = static_cast<float>(even.back() / Limit(bits) * (0.9 + 0.3 * i / 300));
    const Lattice lattice = Product(RoundColumn(even, step, Limit(bits)), RoundColumn(odd, step, Limit(bits)), step);
    if (lattice.mse < best.mse) best = lattice;
  }
  return best;
}

Lattice UniformAt(int bits, double step) {
  Column even, odd;
  const int wide = bits % 2 == 0 ? 1 : 2;
  for (size_t k = 0; k < EvenColumnLevels(bits); ++k) even.levels.push_back(static_cast<int>(2 * k + 1));
  for (size_t k = 0; k < OddColumnLevels(bits); ++k) odd.levels.push_back(static_cast<int>(2 * k + 1) * wide);
  even.mse = GaussianMse(even.levels, step);
  odd.mse = GaussianMse(odd.levels, step);
  return Product(even, odd, step);
}

// The error has one minimum in the step: thirds are thrown away.
Lattice Uniform(int bits) {
  double low = 1e-3, high = 2;
  while (high - low > 1e-7) {
    const double a = low + (high - low) / 3, b = high - (high - low) / 3;
    if (UniformAt(bits, a).mse < UniformAt(bits, b).mse) {
      high = b;
    } else {
      low = a;
    }
  }
  return UniformAt(bits, static_cast<float>(low));
}

void PrintRow(const char* family, char axis, int bits, const std::vector<int>& values) {
  std::printf("inline constexpr uint8_t k%s%c%d[] = {", family, axis, bits);
  for (size_t i = 0; i < values.size(); ++i)
    std::printf("%s%d", i == 0 ? "" : i % 24 == 0 ? ",\n    " : ", ", values[i]);
  std::printf("};\n");
}

struct Family {
  const char* argument;
  const char* name;
  const char* order;  // of the points in the table
  Lattice (*make)(const Source& source, int bits);
};

constexpr Family kFamilies[] = {
    {"joint", "Joint", "sorted by radius", Joint},
    {"polar", "Polar", "ring by ring", Polar},
    {"scalar", "Scalar", "the even column's level first", [](const Source&, int bits) { return Scalar(bits); }},
    {"uniform", "Uniform", "the even column's level first", [](const Source&, int bits) { return Uniform(bits); }},
};

void Make(const Family& family) {
  const Source source;
  std::printf(
      "// Made by core/codec/tools/make_codebooks.cc (%s); do not edit. Magnitudes of one quadrant, %s.\n"
      "#pragma once\n\n#include <cstdint>\n\n#include \"core/codec/codebook.h\"\n\nnamespace qamserve {\n\n",
      family.argument, family.order);
  std::vector<Lattice> all;
  for (int bits = 5; bits <= 12; ++bits) {
    all.push_back(family.make(source, bits));
    std::fprintf(stderr, "%s %d: mse %.5g\n", family.argument, bits, all.back().mse);
    PrintRow(family.name, 'X', bits, all.back().x);
    PrintRow(family.name, 'Y', bits, all.back().y);
  }
  std::printf("\ninline constexpr Codebook k%sCodebooks[] = {\n", family.name);
  for (int bits = 5; bits <= 12; ++bits) {
    const Lattice& l = all[bits - 5];
    const int outermost =
        std::max(*std::max_element(l.x.begin(), l.x.end()), *std::max_element(l.y.begin(), l.y.end()));
    std::printf("    {CodebookKind::k%s, %d, %.9gf, %d, k%sX%d, k%sY%d, %.6g},\n", family.name, bits, l.step, outermost,
                family.name, bits, family.name, bits, l.mse);
  }
  std::printf("};\n\n}  // namespace qamserve\n");
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  for (const qamserve::Family& family : qamserve::kFamilies) {
    if (argc == 2 && std::strcmp(argv[1], family.argument) == 0) {
      qamserve::Make(family);
      return 0;
    }
  }
  std::fprintf(stderr, "usage: make_codebooks joint|polar|scalar|uniform > core/codec/tables/FAMILY.h\n");
  return 1;
}
