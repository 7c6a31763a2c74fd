/** One figure over the last minutes: the value now, its course, and under the pointer any moment of it. */
import { useId, useState, type PointerEvent } from "react";
import { clockTime } from "../format";

export interface Point {
  at: string;
  value: number;
}

interface ChartProps {
  title: string;
  unit: string;
  points: readonly Point[];
  /** Decimals shown. */
  decimals?: number;
}

const width = 320;
const height = 96;

export function Chart({ title, unit, points, decimals = 0 }: ChartProps) {
  const titleId = useId();
  const [hovered, setHovered] = useState<number>();
  const values = points.map((point) => point.value);
  const most = Math.max(1, ...values);
  const show = (value: number) => value.toLocaleString("en-US", { maximumFractionDigits: decimals });
  const x = (index: number) => (points.length < 2 ? width : (index / (points.length - 1)) * width);
  const y = (value: number) => height - 4 - (value / most) * (height - 12);
  const line = points.map((point, index) => `${x(index).toFixed(1)},${y(point.value).toFixed(1)}`).join(" ");
  const point = hovered === undefined ? undefined : points[hovered];
  const latest = points.at(-1);

  function hover(event: PointerEvent<SVGSVGElement>) {
    const box = event.currentTarget.getBoundingClientRect();
    const index = Math.round(((event.clientX - box.left) / box.width) * (points.length - 1));
    setHovered(Math.min(points.length - 1, Math.max(0, index)));
  }

  return (
    <figure className="chart card" aria-labelledby={titleId}>
      <figcaption>
        <h2 id={titleId}>{title}</h2>
        <p>
          <span className="figure">{latest ? show((point ?? latest).value) : "–"}</span>{" "}
          <span className="quiet">{point ? `at ${clockTime(point.at)}` : unit}</span>
        </p>
      </figcaption>
      <svg
        viewBox={`0 0 ${width} ${height}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={describe(title, unit, values.map(show), show(most))}
        onPointerMove={hover}
        onPointerLeave={() => setHovered(undefined)}
      >
        <line className="chart-base" x1="0" x2={width} y1={height - 4} y2={height - 4} />
        {points.length > 1 && (
          <>
            <polygon className="chart-area" points={`0,${height - 4} ${line} ${width},${height - 4}`} />
            <polyline className="chart-line" points={line} />
          </>
        )}
        {hovered !== undefined && (
          <line className="chart-cursor" x1={x(hovered)} x2={x(hovered)} y1="0" y2={height - 4} />
        )}
      </svg>
      <p className="chart-scale quiet small" aria-hidden="true">
        <span>{points[0] ? clockTime(points[0].at) : ""}</span>
        <span>highest {show(values.length ? Math.max(...values) : 0)}</span>
      </p>
    </figure>
  );
}

function describe(title: string, unit: string, shown: readonly string[], most: string): string {
  if (shown.length === 0) return `${title}: no figures yet`;
  return `${title}, the last ${shown.length} readings: now ${shown.at(-1)} ${unit}, highest ${most}`;
}
