// Figures for people.

// A share from 0 to 1. What is not all is never written as 100 %, what is not nothing never as 0.
export function percent(share) {
  if (share <= 0 || share >= 1) return share > 0 ? "100 %" : "0 %";
  if (share > 0.999) return "> 99.9 %";
  return share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`;
}
