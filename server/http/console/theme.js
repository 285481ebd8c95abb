// Before the first paint: the colours that the reader chose, so that a dark page does not flash white.
(function() {
var theme = null;
try {
  theme = localStorage.getItem('qamserve.theme');
} catch (error) {
  // A browser that keeps nothing for us follows the system.
}
if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
